// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_CHECKPOINT_LAYER_RUN_HPP
#define KOKOMO_EXAMPLES_CHECKPOINT_LAYER_RUN_HPP

#include "block.hpp"

#include <kokomo/io/parameters.hpp>

#include <Kokkos_Timer.hpp>

#include <algorithm>

using Exec = Kokkos::DefaultExecutionSpace;

template <class Experts> constexpr bool is_gated() {
  if constexpr (requires { Experts::gated; })
    return Experts::gated;
  else
    return is_gated<typename Experts::Inner>();
}

/// A row through one expert: two or three products of [1, hidden] and [hidden, intermediate], two operations a weight.
template <class Experts> double flop_of_row(kokomo::offset_t hidden, kokomo::offset_t intermediate) {
  return 2.0 * (is_gated<Experts>() ? 3 : 2) * double(hidden) * double(intermediate);
}

/// Host values on the device, converted.
template <class View, class From> void fill(Exec const& exec, View const& view, std::vector<From> const& values) {
  auto const host = Kokkos::create_mirror_view(view);
  std::transform(values.begin(), values.end(), host.data(),
                 [](From value) { return static_cast<typename View::value_type>(value); });
  Kokkos::deep_copy(exec, view, host);
}

template <class To, class View> std::vector<To> to_host(View const& view) {
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, view);
  return std::vector<To>(host.data(), host.data() + host.size());
}

template <class Layer> Outcome run_layer(Block const& block) {
  using T = typename Layer::Storage;
  auto const& d = block.description;
  auto const tokens = std::size_t(block.tokens), hidden = std::size_t(d.hidden);

  Exec const exec;
  Layer const layer(d.shape(block.tokens), kokomo::models::policies_for<Layer>(d));
  auto const parameters = layer.make_parameters(exec);
  auto const state = layer.make_state(exec);
  kokomo::io::load<Layer>(exec, parameters, state, block.tensor_of);

  auto const plan = layer.plan(exec);
  kokomo::Workspace<Exec> const workspace(exec, plan);
  kokomo::Tape<Exec> tape(exec, plan);
  kokomo::OwnedMatrix<T, Exec> const x("x", tokens, hidden), y("y", tokens, hidden);
  fill(exec, x, block.x);
  typename Layer::Inputs inputs;
  inputs.x = x;
  kokomo::OwnedVector<kokomo::offset_t, Exec> token_ids; // outlives the runs that read it
  if constexpr (requires { inputs.selector.token_ids; }) {
    token_ids = kokomo::OwnedVector<kokomo::offset_t, Exec>("token ids", tokens);
    fill(exec, token_ids, block.token_ids);
    inputs.selector.token_ids = token_ids;
  }

  auto const forward = [&] {
    layer.forward(exec, parameters, state, inputs, y, workspace, tape);
    exec.fence("checkpoint_layer: a run");
  };
  block.progress("running");
  forward(); // the first one touches memory for the first time: not timed
  Outcome outcome;
  // at least 5 runs, and more of those that are short
  for (double total = 0; block.timed && (outcome.seconds.size() < 5 || (total < 0.5 && outcome.seconds.size() < 50));) {
    block.progress("timing");
    Kokkos::Timer const timer;
    forward();
    outcome.seconds.push_back(timer.seconds());
    total += outcome.seconds.back();
  }

  outcome.y = to_host<float>(y);
  outcome.logits = to_host<float>(layer.saved(tape).logits);
  outcome.status = layer.status(exec, tape);
  auto const assignment = layer.saved(tape).assignment;
  auto const entries = to_host<kokomo::offset_t>(assignment.token_offsets);
  auto const experts = to_host<kokomo::index_t>(assignment.expert);
  auto const weights = to_host<float>(assignment.weight);
  outcome.chosen.resize(tokens);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (auto i = std::size_t(entries[t]); i < std::size_t(entries[t + 1]); ++i)
      outcome.chosen[t].emplace_back(experts[i], weights[i]);
    std::sort(outcome.chosen[t].begin(), outcome.chosen[t].end());
  }
  auto const offsets = to_host<kokomo::offset_t>(assignment.expert_offsets);
  for (std::size_t e = 1; e < offsets.size(); ++e) outcome.load.push_back(offsets[e] - offsets[e - 1]);
  // experts without weights multiply nothing
  outcome.flop = double(offsets[std::size_t(layer.sizes().weighted)]) *
                 flop_of_row<typename Layer::Routed>(d.latent > 0 ? d.latent : d.hidden, d.intermediate);
  if constexpr (Layer::has_shared)
    outcome.flop +=
        double(block.tokens) * d.shared * flop_of_row<typename Layer::Experts::Shared>(d.hidden, d.shared_intermediate);
  return outcome;
}

template <template <class, class> class Model> Outcome run(Block const& block) {
  return block.bfloat16 ? run_layer<Model<kokomo::bfloat16, Exec>>(block) : run_layer<Model<float, Exec>>(block);
}

#endif
