// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/soft_moe.hpp>

using kokomo::offset_t;

namespace {

template <class Experts> void compare_soft_moe(Reference const& reference, Comparison& comparison) {
  using Layer = kokomo::SoftMoe<Experts, float, Exec>;
  auto const& config = reference.config();
  auto const hidden = config.at("hidden_size").get<offset_t>(), experts = config.at("num_experts").get<offset_t>(),
             width = config.at("expert_intermediate_size").get<offset_t>();
  typename Layer::Policies policies;
  policies.slots = config.at("slots_per_expert");
  policies.tokens_per_sequence = config.at("batch_shape").at(1);
  policies.norm = kokomo::SlotNorm::gain;
  policies.epsilon = 1e-24f; // there the length is at least 1e-12
  policies.experts.intermediate = width;
  policies.experts.bias = true;
  policies.experts.activation.act.kind = kokomo::ActivationKind::gelu;
  Exec const exec;
  Layer const layer({.tokens = reference.tokens(), .hidden = hidden, .experts = experts}, policies);
  auto const parameters = layer.make_parameters(exec), grads = layer.make_parameters(exec);
  exec.fence();

  // A tensor of expert e, or one of all: the part of a parameter that it is. Of gated experts' first matrix the file has the
  // linear half first.
  struct Part {
    std::string name;
    std::size_t offset, length, turned; // file element i stands at offset + (i + turned) mod length
  };
  auto const parts_of = [&](std::string const& parameter, std::size_t size) {
    if (parameter == "router.slots") return std::vector<Part>{{"slot_embeds", 0, size, 0}};
    if (parameter == "router.norm") return std::vector<Part>{{"norm.gamma", 0, size, 0}};
    if (parameter == "router.slot_norm") return std::vector<Part>{{"slot_norm.gamma", 0, size, 0}};
    bool const first = parameter.find("down") == std::string::npos;
    bool const bias = parameter.find("bias") != std::string::npos;
    std::vector<Part> parts;
    for (offset_t e = 0; e < experts; ++e) {
      auto const length = size / std::size_t(experts);
      parts.push_back({"experts.experts." + std::to_string(e) + (first ? ".0." : ".3.") + (bias ? "bias" : "weight"),
                       std::size_t(e) * length, length, first && Experts::gated ? length / 2 : 0});
    }
    return parts;
  };
  parameters.for_each([&](std::string const& parameter, auto const& view) {
    std::vector<float> all(view.size());
    for (auto const& part : parts_of(parameter, view.size())) {
      auto const values = values_of(reference, part.name);
      if (values.size() != part.length) return comparison.fail(part.name + " has another size");
      for (std::size_t i = 0; i < part.length; ++i)
        all[part.offset + (i + part.turned) % part.length] = float(values[i]);
    }
    set(view, all);
  });

  auto const tokens = std::size_t(reference.tokens());
  auto const x = to_device<float>(reference.at("input"), tokens, std::size_t(hidden)),
             dy = to_device<float>(reference.at("grad_output"), tokens, std::size_t(hidden));
  kokomo::OwnedMatrix<float, Exec> const y("y", tokens, std::size_t(hidden)), dx("dx", tokens, std::size_t(hidden));
  auto const plan = layer.plan(exec);
  kokomo::Workspace<Exec> const workspace(exec, plan);
  kokomo::Tape<Exec> tape(exec, plan);
  typename Layer::Inputs inputs;
  inputs.x = x;
  layer.forward(exec, parameters, inputs, y, workspace, tape);
  layer.backward(exec, parameters, inputs, dy, dx, grads, workspace, tape);
  exec.fence();
  comparison.output("output", to_doubles(y), values_of(reference, "output"));
  comparison.gradient("grad_input", to_doubles(dx), values_of(reference, "grad_input"));
  grads.for_each([&](std::string const& parameter, auto const& view) {
    auto const got = to_doubles(view);
    for (auto const& part : parts_of(parameter, view.size())) {
      Values turned(part.length);
      for (std::size_t i = 0; i < part.length; ++i) turned[i] = got[part.offset + (i + part.turned) % part.length];
      comparison.gradient("grad." + part.name, turned, values_of(reference, "grad." + part.name));
    }
  });
}

} // namespace

void check_soft_moe(Reference const& reference, Comparison& comparison) {
  if (reference.config().at("expert_form") == "plain")
    compare_soft_moe<kokomo::AnyPlainExperts>(reference, comparison);
  else
    compare_soft_moe<kokomo::AnyGluExperts>(reference, comparison);
}
