// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/gate/constant.hpp>
#include <kokomo/models/product_keys.hpp>
#include <kokomo/router/given.hpp>

using kokomo::index_t;
using kokomo::offset_t;

// Files whose tensors have no roles: PEER's retrieval, the operator MoE of ONNX Runtime, a grouped product of torch.

namespace {

/// A layer, its parameters and one call.
template <class Layer> struct Call {
  using T = typename Layer::Storage;

  Exec exec;
  Layer layer;
  typename Layer::Parameters parameters = layer.make_parameters(exec), grads = layer.make_parameters(exec);
  typename Layer::State state = layer.make_state(exec);
  typename Layer::Inputs inputs;
  kokomo::Plan plan = layer.plan(exec);
  kokomo::Workspace<Exec> workspace{exec, plan};
  kokomo::Tape<Exec> tape{exec, plan};
  kokomo::OwnedMatrix<T, Exec> x, dy, y, dx;

  Call(kokomo::Shape const& shape, typename Layer::Policies const& policies, Reference const& reference)
      : layer(shape, policies) {
    auto const tokens = std::size_t(shape.tokens), hidden = std::size_t(shape.hidden);
    x = to_device<T>(reference.at("input"), tokens, hidden);
    y = kokomo::OwnedMatrix<T, Exec>("y", tokens, hidden);
    dx = kokomo::OwnedMatrix<T, Exec>("dx", tokens, hidden);
    if (reference.find("grad_output") != nullptr) dy = to_device<T>(reference.at("grad_output"), tokens, hidden);
    inputs.x = x;
  }

  /// A parameter that lies in memory as the file's tensor does.
  template <class V> static void load(V const& view, kokomo::io::TensorInfo const& tensor) {
    std::vector<typename V::value_type> values(view.size());
    kokomo::io::read(tensor, std::span(values));
    set(view, values);
  }

  void forward(Reference const& reference, Comparison& comparison) {
    layer.forward(exec, parameters, state, inputs, y, workspace, tape);
    exec.fence();
    comparison.output("output", to_doubles(y), kokomo::io::read<double>(reference.at("output")));
  }
  void backward(Reference const& reference, Comparison& comparison) {
    typename Layer::InputGradients d_inputs;
    d_inputs.x = dx;
    layer.backward(exec, parameters, state, inputs, dy, d_inputs, grads, workspace, tape);
    exec.fence();
    comparison.gradient("grad_input", to_doubles(dx), kokomo::io::read<double>(reference.at("grad_input")));
  }
  template <class V>
  static void compare(V const& grad, char const* name, Reference const& reference, Comparison& comparison) {
    comparison.gradient(name, to_doubles(grad), kokomo::io::read<double>(reference.at(name)));
  }
};

/// The function of one number that an activation is made of.
kokomo::AnyActivation function_of(std::string const& name) {
  using K = kokomo::ActivationKind;
  static std::map<std::string, K> const kinds{
      {"swiglu", K::silu},         {"geglu", K::gelu},       {"reglu", K::relu},         {"silu", K::silu},
      {"gelu", K::gelu},           {"relu", K::relu},        {"relu2", K::squared_relu}, {"geglu_tanh", K::gelu_tanh},
      {"gelu_tanh", K::gelu_tanh}, {"identity", K::identity}};
  auto const found = kinds.find(name);
  if (found == kinds.end()) throw std::runtime_error("unknown activation " + name);
  return {found->second};
}

template <class T, class Experts> void run_grouped(Reference const& reference, Comparison& comparison) {
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::Given>, kokomo::ConstantGate,
                              kokomo::NoBalancer, Experts, T, Exec>;
  auto const& c = reference.config();
  kokomo::Shape const shape{.tokens = c.at("rows"), .hidden = c.at("hidden_size"), .experts = c.at("num_experts")};
  typename Layer::Policies policies;
  policies.experts.intermediate = c.at("expert_intermediate_size");
  policies.experts.activation = {function_of(c.at("activation"))};
  if (c.at("weight_layout") == "in_out")
    policies.experts.up_order = policies.experts.down_order = kokomo::WeightOrder::in_out;
  if (c.at("gate_up_layout") == "interleaved") policies.experts.gate_up = kokomo::GateUp::interleaved;
  Call<Layer> call(shape, policies, reference);
  auto const& p = call.parameters.experts;
  if constexpr (Experts::gated)
    Call<Layer>::load(p.gate_up, reference.at("gate_up_proj"));
  else
    Call<Layer>::load(p.up, reference.at("up_proj"));
  Call<Layer>::load(p.down, reference.at("down_proj"));

  auto const sizes = kokomo::io::read<std::int64_t>(reference.at("group_sizes"));
  kokomo::OwnedMatrix<index_t, Exec> given("given", std::size_t(shape.tokens), 1);
  std::vector<index_t> expert_of_row;
  for (std::size_t e = 0; e < sizes.size(); ++e)
    expert_of_row.insert(expert_of_row.end(), std::size_t(sizes[e]), index_t(e));
  set(given, expert_of_row);
  call.inputs.selector.experts = given;

  call.forward(reference, comparison);
  call.backward(reference, comparison);
  if constexpr (Experts::gated)
    Call<Layer>::compare(call.grads.experts.gate_up, "grad.gate_up_proj", reference, comparison);
  else
    Call<Layer>::compare(call.grads.experts.up, "grad.up_proj", reference, comparison);
  Call<Layer>::compare(call.grads.experts.down, "grad.down_proj", reference, comparison);
}

template <class Experts>
void run_operator(Reference const& reference, Comparison& comparison, typename Experts::Activation const& activation) {
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::NormalizedSoftmaxGate,
                              kokomo::NoBalancer, Experts, float, Exec>;
  auto const& c = reference.config();
  auto const experts = c.at("num_experts").get<std::size_t>();
  kokomo::Shape const shape{.tokens = reference.tokens(),
                            .hidden = c.at("hidden_size"),
                            .experts = offset_t(experts),
                            .router_hidden = offset_t(experts)};
  typename Layer::Policies policies;
  policies.router.selector.k = c.at("top_k");
  policies.gate.normalize = c.at("norm_topk_prob") == true ? kokomo::Normalize::sum : kokomo::Normalize::none;
  policies.experts.intermediate = c.at("expert_intermediate_size");
  policies.experts.bias = c.at("expert_bias");
  policies.experts.activation = activation;
  if (c.at("gate_up_layout") == "interleaved") policies.experts.gate_up = kokomo::GateUp::interleaved;
  Call<Layer> call(shape, policies, reference);
  auto const& p = call.parameters;
  if constexpr (Experts::gated) {
    Call<Layer>::load(p.experts.gate_up, reference.at("fc1_experts_weights"));
    if (policies.experts.bias) Call<Layer>::load(p.experts.gate_up_bias, reference.at("fc1_experts_bias"));
  } else {
    Call<Layer>::load(p.experts.up, reference.at("fc1_experts_weights"));
    if (policies.experts.bias) Call<Layer>::load(p.experts.up_bias, reference.at("fc1_experts_bias"));
  }
  Call<Layer>::load(p.experts.down, reference.at("fc2_experts_weights"));
  if (policies.experts.bias) Call<Layer>::load(p.experts.down_bias, reference.at("fc2_experts_bias"));

  // the operator takes logits: a router that reads them, with the identity for its weight
  std::vector<float> identity(experts * experts);
  for (std::size_t i = 0; i < experts; ++i) identity[i * experts + i] = 1;
  set(p.router.weight, identity);
  auto const logits = to_device<float>(reference.at("router_logits"), std::size_t(shape.tokens), experts);
  call.inputs.router_input = logits;
  call.forward(reference, comparison);
}

} // namespace

void check_peer(Reference const& reference, Comparison& comparison) {
  using Layer = kokomo::models::Peer<float, Exec>;
  auto const& c = reference.config();
  int const heads = c.at("heads");
  bool const relu = c.at("score_function") == "relu";
  Layer::Policies const policies{
      .router = {.scorer = {.heads = heads, .key_size = c.at("key_size")},
                 .selector = {.k = c.at("top_k"), .heads = heads, .best_of_half = c.at("product_key_top_k")}},
      .gate = {.weight = relu ? kokomo::PairWeight::relu : kokomo::PairWeight::selected_softmax, .heads = heads},
      .experts = {.act = function_of(c.at("activation"))}};
  Call<Layer> call({.tokens = reference.tokens(), .hidden = c.at("hidden_size"), .experts = c.at("num_experts")},
                   policies, reference);
  auto const& p = call.parameters;
  Call<Layer>::load(p.router.queries, reference.at("to_queries.0.weight"));
  Call<Layer>::load(p.router.keys, reference.at("keys"));
  Call<Layer>::load(p.experts.up, reference.at("weight_down_embed.weight"));
  Call<Layer>::load(p.experts.down, reference.at("weight_up_embed.weight"));
  call.forward(reference, comparison);
  call.backward(reference, comparison);
  auto const compare = [&](auto const& grad, char const* name) {
    Call<Layer>::compare(grad, name, reference, comparison);
  };
  compare(call.grads.router.queries, "grad.to_queries.0.weight");
  compare(call.grads.router.keys, "grad.keys");
  compare(call.grads.experts.up, "grad.weight_down_embed.weight");
  compare(call.grads.experts.down, "grad.weight_up_embed.weight");
}

void check_operator(Reference const& reference, Comparison& comparison) {
  auto const& c = reference.config();
  std::string const activation = c.at("activation");
  if (activation == "swiglu_alpha") {
    float const none = Kokkos::Experimental::infinity_v<float>;
    run_operator<kokomo::ClampedSwiGluExperts>(reference, comparison,
                                               {.alpha = c.value("swiglu_alpha", 1.0f),
                                                .gate_max = c.value("gate_max", none),
                                                .up_limit = c.value("up_limit", none),
                                                .up_offset = c.value("up_offset", 0.0f)});
  } else {
    // the operator's gelu is the tanh form
    run_operator<kokomo::AnyPlainExperts>(reference, comparison,
                                          {function_of(activation == "gelu" ? "gelu_tanh" : activation)});
  }
}

void check_grouped_product(Reference const& reference, Comparison& comparison) {
  bool const gated = reference.config().at("gate_up_layout") != "none";
  if (reference.is_bfloat16())
    gated ? run_grouped<kokomo::bfloat16, kokomo::AnyGluExperts>(reference, comparison)
          : run_grouped<kokomo::bfloat16, kokomo::AnyPlainExperts>(reference, comparison);
  else
    gated ? run_grouped<float, kokomo::AnyGluExperts>(reference, comparison)
          : run_grouped<float, kokomo::AnyPlainExperts>(reference, comparison);
}
