// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>
#include <docs/positive.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/balancer/z_loss.hpp>
#include <kokomo/capacity/capacity.hpp>
#include <kokomo/combine/normalized_sum.hpp>
#include <kokomo/experts/with_shared.hpp>
#include <kokomo/io/checkpoint.hpp>
#include <kokomo/io/safetensors.hpp>
#include <kokomo/router/group_limited_top_k.hpp>

#include <cstdlib>
#include <fstream>

// clang-format off
// [snippet:readme_type]
using DeepSeekV3 = kokomo::Layer<
    kokomo::Router<kokomo::LinearScorer, kokomo::GroupLimitedTopK<>>, // where a token goes
    kokomo::NormalizedSigmoidGate,                                    // with what weight
    kokomo::SelectionBias,                                            // what keeps the load even
    kokomo::WithShared<kokomo::SwiGluExperts>,                        // what is computed there
    kokomo::bfloat16, Kokkos::DefaultExecutionSpace>;
// [/snippet]
// clang-format on

TEST_CASE("readme") {
  using Matrix = Kokkos::View<kokomo::bfloat16**, Kokkos::LayoutRight>;
  Matrix const x("x", 20, 32), y("y", 20, 32), dy("dy", 20, 32), dx("dx", 20, 32);
  // [snippet:readme]
  Kokkos::DefaultExecutionSpace exec;
  DeepSeekV3 const layer({.tokens = 20, .hidden = 32, .experts = 16},
                         {.router = {.selector = {.k = 4, .groups = 4, .allowed_groups = 2}},
                          .gate = {.scale = 2.5f},
                          .experts = {.routed = {.intermediate = 24}, .shared = {.intermediate = 48}}});

  auto parameters = layer.make_parameters(exec), gradients = layer.make_parameters(exec); // named Views
  auto state = layer.make_state(exec);
  auto plan = layer.plan(exec); // bytes, from host arithmetic alone
  kokomo::Workspace<Kokkos::DefaultExecutionSpace> workspace(exec, plan);
  kokomo::Tape<Kokkos::DefaultExecutionSpace> tape(exec, plan);

  layer.forward(exec, parameters, state, x, y, workspace, tape); // asynchronous; no allocation, no fence
  layer.backward(exec, parameters, state, x, dy, dx, gradients, workspace, tape);
  exec.fence();
  // [/snippet]
  REQUIRE(tape.tokens() == 20);
  REQUIRE(layer.status(exec, tape).tokens_without_expert == 0);
}

TEST_CASE("compile time and run time k") {
  // [snippet:static_k]
  using kokomo::LinearScorer, kokomo::Router, kokomo::TopK;
  using Fixed = kokomo::Layer<Router<LinearScorer, TopK<2>>>; // the kernel knows k
  using Free = kokomo::Layer<Router<LinearScorer, TopK<>>>;   // k is a setting
  kokomo::Shape const shape{.tokens = 5, .hidden = 8, .experts = 4};
  Fixed const fixed(shape, {.experts = {.intermediate = 16}});
  Free const free(shape, {.router = {.selector = {.k = 2}}, .experts = {.intermediate = 16}});
  REQUIRE(fixed.sizes().entries == free.sizes().entries); // 5 tokens x 2 experts
  // [/snippet]
}

TEST_CASE("optional slots") {
  using kokomo::LinearScorer, kokomo::Router, kokomo::TopK;
  // [snippet:optional_slots]
  using A = kokomo::Layer<Router<LinearScorer, TopK<2>>, kokomo::SoftmaxGate, kokomo::NoBalancer, kokomo::SwiGluExperts,
                          float, Kokkos::DefaultExecutionSpace, //
                          kokomo::Capacity, kokomo::NormalizedSum>;
  using B = kokomo::Layer<Router<LinearScorer, TopK<2>>, kokomo::SoftmaxGate, kokomo::NoBalancer, kokomo::SwiGluExperts,
                          float, Kokkos::DefaultExecutionSpace, //
                          kokomo::NormalizedSum, kokomo::Capacity>;
  static_assert(std::is_same_v<A::Capacity, B::Capacity> && std::is_same_v<A::Combine, B::Combine>);
  static_assert(std::is_same_v<A::Space, kokomo::SameSpace>); // not named: the default
  // [/snippet]
  B const layer({.tokens = 4, .hidden = 3, .experts = 2},
                {.experts = {.intermediate = 4}, .capacity = {.factor = 1.25}, .combine = {.epsilon = 1e-5f}});
  REQUIRE(layer.policies().capacity.limit(layer.sizes()) == 5);
}

TEST_CASE("inputs") {
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>>;
  using Exec = Kokkos::DefaultExecutionSpace;
  // [snippet:inputs]
  kokomo::Shape const shape{.tokens = 3, .hidden = 4, .experts = 2, .router_hidden = 6};
  Layer const layer(shape, {.experts = {.intermediate = 8}});
  Kokkos::View<float**, Kokkos::LayoutRight> x("x", 2, 4), y("y", 2, 4); // fewer tokens than shape.tokens
  Kokkos::View<float**, Kokkos::LayoutRight> features("features", 2, 6); // what the router reads
  Kokkos::View<kokomo::index_t*> mask("mask", 2);                        // zeros: no token is routed

  Layer::Inputs inputs;
  inputs.x = x;
  inputs.router_input = features;
  inputs.token_mask = mask;
  inputs.mode = kokomo::Mode::training;
  inputs.step = 17; // keys random choices, for policies that make any
  // [/snippet]
  Exec exec;
  auto const parameters = layer.make_parameters(exec);
  auto const state = layer.make_state(exec);
  auto const plan = layer.plan(exec);
  kokomo::Workspace<Exec> const workspace(exec, plan);
  kokomo::Tape<Exec> tape(exec, plan);
  layer.forward(exec, parameters, state, inputs, y, workspace, tape);
  REQUIRE(layer.status(exec, tape).tokens_without_expert == 2);
  REQUIRE((tape.mode() == kokomo::Mode::training && tape.step() == 17));
}

TEST_CASE("errors") {
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>>;
  // [snippet:errors]
  try {
    Layer const layer({.tokens = 3, .hidden = 4, .experts = 2},
                      {.router = {.selector = {.k = 3}}, .experts = {.intermediate = 8}});
    FAIL("k experts do not exist");
  } catch (kokomo::Error const& error) {
    REQUIRE(error.id() == 102);
    // [kokomo.error.102] k = 3 experts a token, expected 1 <= k <= 2 (the routed experts)
    REQUIRE_THAT(error.what(), Catch::Matchers::ContainsSubstring("k = 3"));
  }
  // [/snippet]
}

namespace {

// [snippet:sgd]
template <class T> struct Descend {
  T* parameter;
  T const* gradient;
  float rate;
  KOKKOS_FUNCTION void operator()(int i) const { parameter[i] = T(float(parameter[i]) - rate * float(gradient[i])); }
};

/// Parameters and gradients are of one type: their Views come in the same order.
template <class Exec, class Parameters>
void descend(Exec const& exec, Parameters const& parameters, Parameters const& gradients, float rate) {
  std::vector<void const*> gradient;
  gradients.for_each([&](std::string const&, auto const& view) { gradient.push_back(view.data()); });
  std::size_t i = 0;
  parameters.for_each([&](std::string const&, auto const& view) {
    using T = typename std::decay_t<decltype(view)>::value_type; // the storage type, or float for the router
    Kokkos::parallel_for("descend", Kokkos::RangePolicy<Exec>(exec, 0, view.size()),
                         Descend<T>{view.data(), static_cast<T const*>(gradient[i++]), rate});
  });
}
// [/snippet]

} // namespace

TEST_CASE("train") {
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<2>>, kokomo::NormalizedSigmoidGate,
                              kokomo::Balancers<kokomo::SelectionBias, kokomo::ZLoss>, kokomo::SwiGluExperts>;
  kokomo::Shape const shape{.tokens = 32, .hidden = 6, .experts = 4};
  Layer::Policies const policies{.balancer = {{{.rate = 1e-3f}, {.coefficient = 1e-4f}}},
                                 .experts = {.intermediate = 12}};
  Example<Layer> run(shape, policies);
  auto const& exec = run.exec;
  auto const& layer = run.layer;
  auto const &parameters = run.parameters, &gradients = run.gradients;
  auto const& state = run.state;
  auto const& workspace = run.workspace;
  auto const x = run.x, y = run.y, dy = run.dy, dx = run.dx;
  auto& inputs = run.inputs;
  auto& tape = run.tape;
  Kokkos::View<float**, Kokkos::LayoutRight> const target("target", 32, 6);
  Kokkos::deep_copy(target, x); // the layer learns to return its input

  // dy = (y - target) / tokens, the gradient of half the mean squared distance, which is returned
  auto const distance = [&] {
    auto const a = host(y), d = host(dy);
    auto const b = host(target);
    double sum = 0;
    for (std::size_t t = 0; t < 32; ++t)
      for (std::size_t h = 0; h < 6; ++h) {
        d(t, h) = (a(t, h) - b(t, h)) / 32;
        sum += double(a(t, h) - b(t, h)) * (a(t, h) - b(t, h)) / 64;
      }
    Kokkos::deep_copy(dy, d);
    return sum;
  };
  double first = 0, last = 0;
  // [snippet:train]
  inputs.mode = kokomo::Mode::training;
  for (int step = 0; step < 500; ++step) {
    inputs.step = std::uint64_t(step);
    layer.forward(exec, parameters, state, inputs, y, workspace, tape);
    exec.fence();
    last = distance(); // the caller's loss, and its gradient dy
    if (step == 0) first = last;
    layer.backward(exec, parameters, state, x, dy, dx, gradients, workspace, tape); // of sum(y * dy) + balancer losses
    descend(exec, parameters, gradients, 1.0f);
    layer.step(exec, state); // the balancer's update, once an optimiser step
  }
  // [/snippet]
  INFO(first << " -> " << last);
  REQUIRE(last < 0.5 * first);

  // [snippet:accumulate]
  // Two micro-batches of one step: the first overwrites the gradients, the second adds to them.
  layer.forward(exec, parameters, state, x, y, workspace, tape);
  layer.backward(exec, parameters, state, x, dy, dx, gradients, workspace, tape, kokomo::Write::overwrite);
  exec.fence();
  float const once = host(gradients.experts.down)(0, 0, 0);
  layer.forward(exec, parameters, state, x, y, workspace, tape);
  layer.backward(exec, parameters, state, x, dy, dx, gradients, workspace, tape, kokomo::Write::add);
  exec.fence();
  REQUIRE(host(gradients.experts.down)(0, 0, 0) == Approx(2 * once));
  // [/snippet]

  // [snippet:status]
  auto const saved = layer.saved(tape); // Views into the tape: valid until its next forward
  auto const offsets = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, saved.assignment.expert_offsets);
  auto const load_of_expert_0 = offsets(1) - offsets(0);
  auto const loss = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, saved.loss)(0);
  kokomo::Status const status = layer.status(exec, tape); // copies back and fences
  REQUIRE((status.dropped == 0 && status.non_finite_logits == 0));
  REQUIRE((load_of_expert_0 >= 0 && load_of_expert_0 <= 32 && loss > 0));
  // [/snippet]
}

TEST_CASE("memory of the caller") {
  using Exec = Kokkos::DefaultExecutionSpace;
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>>;
  Layer const first({.tokens = 8, .hidden = 4, .experts = 2}, {.experts = {.intermediate = 8}});
  Layer const second({.tokens = 8, .hidden = 16, .experts = 2}, {.experts = {.intermediate = 8}});
  Exec exec;
  // [snippet:memory]
  kokomo::Plan const plan = first.plan(exec).max(second.plan(exec)); // layers that take turns share a workspace
  Kokkos::View<std::byte*> pool("pool", plan.workspace_bytes + 64);
  auto const address = reinterpret_cast<std::uintptr_t>(pool.data());
  std::byte* const aligned = pool.data() + (64 - address % 64) % 64;
  kokomo::Workspace<Exec> const workspace(aligned, plan.workspace_bytes, plan.workers);
  kokomo::Tape<Exec> first_tape(exec, first.plan(exec)), second_tape(exec, second.plan(exec));
  // [/snippet]
  REQUIRE(workspace.bytes() == plan.workspace_bytes);
  REQUIRE(workspace.bytes() > first.plan(exec).workspace_bytes);
  REQUIRE(second_tape.bytes() == first_tape.bytes()); // it keeps logits, entries and pre-activations: no [.., hidden]
}

TEST_CASE("threshold selector") {
  // [snippet:use_positive]
  // ReLU routing: every expert with a positive logit, and the logit is its weight.
  using Layer =
      kokomo::Layer<kokomo::Router<kokomo::LinearScorer, user::Positive>, kokomo::ScoreGate<kokomo::IdentityScore>>;
  Example<Layer> run({.tokens = 4, .hidden = 3, .experts = 3},
                     {.router = {.selector = {.at_most = 2}}, .experts = {.intermediate = 4}});
  run.set_logits({{1, -1, 2}, {-1, -1, -1}, {3, 3, 3}, {0, 0.5, -2}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{2, 0}, {}, {0, 1}, {1}});
  REQUIRE(close(run.weights(), {{2, 1}, {}, {3, 3}, {0.5}}));
  REQUIRE(run.status().tokens_without_expert == 1); // y is zero there
  // [/snippet]
  REQUIRE(close({run.output()[1]}, {{0, 0, 0}}));
}

TEST_CASE("gradients of the threshold selector") {
  using Layer =
      kokomo::Layer<kokomo::Router<kokomo::LinearScorer, user::Positive>, kokomo::ScoreGate<kokomo::IdentityScore>,
                    kokomo::NoBalancer, kokomo::test::ScaleExperts, double>;
  Example<Layer> run({.tokens = 5, .hidden = 4, .experts = 3}, {.router = {.selector = {.at_most = 3}}});
  run.forward();
  std::size_t entries = 0;
  for (auto const& row : run.chosen()) entries += row.size();
  REQUIRE((entries > 0 && entries < 15)); // the counts do vary
  run.layer.backward(run.exec, run.parameters, run.state, run.x, run.dy, run.dx, run.gradients, run.workspace,
                     run.tape);
  run.exec.fence();
  auto const value = [&] {
    run.forward();
    auto const y = host(run.y), dy = host(run.dy);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y.data()[i] * dy.data()[i];
    return sum;
  };
  auto const gradient = host(run.dx);
  auto const x = host(run.x);
  for (std::size_t t = 0; t < 5; ++t)
    for (std::size_t h = 0; h < 4; ++h) {
      double const centre = x(t, h), step = 1e-6;
      example::set(run.x, centre + step, t, h);
      double const above = value();
      example::set(run.x, centre - step, t, h);
      double const below = value();
      example::set(run.x, centre, t, h);
      // central difference in float64: error about step^2 + 1e-16 / step
      CHECK(std::abs((above - below) / (2 * step) - gradient(t, h)) < 1e-8);
    }
}

TEST_CASE("load a checkpoint") {
  using Exec = Kokkos::DefaultExecutionSpace;
  std::string name = (std::filesystem::temp_directory_path() / "kokomo_docs_XXXXXX").string();
  REQUIRE(::mkdtemp(name.data()) != nullptr);
  std::filesystem::path const folder = name;
  std::ofstream(folder / "config.json") << R"({"model_type": "olmoe", "hidden_size": 4, "intermediate_size": 3,
    "num_experts": 2, "num_experts_per_tok": 1, "norm_topk_prob": false})";
  std::string const prefix = "model.layers.0.mlp.";
  std::vector<float> numbers(2 * 4 + 2 * 3 * 3 * 4);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = float(i) / 8;
  std::vector<kokomo::io::TensorInfo> tensors;
  std::size_t used = 0;
  auto const tensor = [&](std::string const& key, std::int64_t rows, std::int64_t columns) {
    auto const count = std::size_t(rows * columns);
    tensors.push_back({prefix + key,
                       kokomo::io::DType::F32,
                       {rows, columns},
                       std::as_bytes(std::span(numbers).subspan(used, count))});
    used += count;
  };
  tensor("gate.weight", 2, 4);
  for (std::string const expert : {"experts.0.", "experts.1."}) {
    tensor(expert + "gate_proj.weight", 3, 4);
    tensor(expert + "up_proj.weight", 3, 4);
    tensor(expert + "down_proj.weight", 4, 3);
  }
  kokomo::io::write_safetensors(folder / "model.safetensors", tensors);

  Exec exec;
  // [snippet:load]
  kokomo::io::Checkpoint const checkpoint(folder); // config.json; model.safetensors or the shards of its index
  auto const config = checkpoint.config();

  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate>;
  Layer const layer(
      {.tokens = 64, .hidden = config.size("hidden_size"), .experts = config.size("num_experts")},
      {.router = {.selector = {.k = config.size("num_experts_per_tok")}},
       .experts = {.intermediate = config.size("intermediate_size"), .gate_up = kokomo::GateUp::separate}});
  auto const parameters = layer.make_parameters(exec);
  exec.fence();

  auto const load = [&](std::string const& key, auto const& view) { // view must be accessible from the host
    kokomo::io::read_into(checkpoint.at("model.layers.0.mlp." + key + ".weight"), view);
  };
  load("gate", parameters.router.weight);
  for (int e = 0; e < config.size("num_experts"); ++e) {
    auto const expert = "experts." + std::to_string(e);
    load(expert + ".gate_proj", Kokkos::subview(parameters.experts.gate, e, Kokkos::ALL, Kokkos::ALL));
    load(expert + ".up_proj", Kokkos::subview(parameters.experts.up, e, Kokkos::ALL, Kokkos::ALL));
    load(expert + ".down_proj", Kokkos::subview(parameters.experts.down, e, Kokkos::ALL, Kokkos::ALL));
  }
  // [/snippet]
  REQUIRE(parameters.router.weight(1, 3) == 7.0f / 8);
  REQUIRE(parameters.experts.down(1, 3, 2) == float(numbers.size() - 1) / 8);
  std::filesystem::remove_all(folder);
}
