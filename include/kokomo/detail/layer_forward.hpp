// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_LAYER_FORWARD_HPP
#define KOKOMO_DETAIL_LAYER_FORWARD_HPP

// Included by kokomo/layer.hpp.

namespace kokomo::inline v0 {

KOKOMO_LAYER_TEMPLATE
auto KOKOMO_LAYER::routing(State const& state, Inputs const& inputs, Saved const& saved, Sizes const& sizes, Mode mode,
                           std::uint64_t step) const -> Routing<T, Exec> {
  Routing<T, Exec> routing;
  routing.logits = saved.logits;
  if constexpr (detail::BiasesSelection<Balancer, T, Exec>)
    routing.bias = m_policies.balancer.template bias<T, Exec>(state.balancer);
  if constexpr (detail::MasksExperts<Adjust, T, Exec>)
    routing.expert_mask = m_policies.adjust.template expert_mask<T, Exec>(state.adjust, saved.adjust);
  if (inputs.token_mask.given()) routing.token_mask = inputs.token_mask.checked("inputs.token_mask", {sizes.tokens});
  routing.status = saved.status.data();
  routing.sizes = sizes;
  routing.mode = mode;
  routing.step = step;
  return routing;
}

/// Everything that can be wrong with a call, before anything is enqueued.
KOKOMO_LAYER_TEMPLATE
void KOKOMO_LAYER::check_call(Parameters const& parameters, State const& state, Inputs const& inputs,
                              Sizes const& sizes, Workspace<Exec> const& workspace, std::size_t needed) const {
  using detail::require;
  require(sizes.tokens <= m_shape.tokens, 201, "x has ", sizes.tokens,
          " tokens, expected at most shape.tokens = ", m_shape.tokens);
  (void)inputs.x.checked("x", {sizes.tokens, sizes.hidden});
  (void)router_input(inputs, sizes);
  require(inputs.router_input.given() || sizes.router_width == sizes.hidden, 203,
          "inputs.router_input is missing: shape.router_hidden = ", sizes.router_width,
          " differs from hidden = ", sizes.hidden);
  if (inputs.token_mask.given()) (void)inputs.token_mask.checked("inputs.token_mask", {sizes.tokens});
  if constexpr (detail::ChecksInputs<Scorer, T, Exec>)
    m_policies.router.scorer.template check_inputs<T, Exec>(inputs.scorer, sizes);
  if constexpr (detail::ChecksInputs<Selector, T, Exec>)
    m_policies.router.selector.template check_inputs<T, Exec>(inputs.selector, sizes);
  if constexpr (detail::ChecksInputs<Gate, T, Exec>) m_policies.gate.template check_inputs<T, Exec>(inputs.gate, sizes);
  if constexpr (detail::ChecksInputs<Adjust, T, Exec>)
    m_policies.adjust.template check_inputs<T, Exec>(inputs.adjust, sizes);
  if constexpr (detail::ChecksInputs<Capacity, T, Exec>)
    m_policies.capacity.template check_inputs<T, Exec>(inputs.capacity, sizes);
  detail::check_extents("parameters", parameters, m_parameter_extents);
  detail::check_extents("state", state, m_state_extents);
  require(!detail::runs_on_host_v<Exec> || workspace.workers() >= 1, 205, "the workspace has room for ",
          workspace.workers(), " workers, expected at least 1 (Plan::workers)");
  require(needed <= workspace.bytes(), 205, "the workspace has ", workspace.bytes(), " bytes, expected at least ",
          needed, " (Layer::plan)");
}

/// What a call only reads (in training state too is written). Arguments of inputs that are written (a recording) are not
/// among it.
KOKOMO_LAYER_TEMPLATE
detail::MemoryRanges KOKOMO_LAYER::memory_of(Parameters const& parameters, State const& state, Inputs const& inputs) {
  detail::MemoryRanges ranges;
  ranges.add("x", inputs.x).add("inputs.router_input", inputs.router_input).add("inputs.token_mask", inputs.token_mask);
  ranges.add_read("inputs.scorer.", inputs.scorer).add_read("inputs.adjust.", inputs.adjust);
  ranges.add_read("inputs.selector.", inputs.selector).add_read("inputs.gate.", inputs.gate);
  ranges.add_read("inputs.capacity.", inputs.capacity);
  return ranges.add_views("parameters.", parameters).add_views("state.", state);
}

KOKOMO_LAYER_TEMPLATE
detail::MemoryRanges KOKOMO_LAYER::written_memory_of(Inputs const& inputs) {
  detail::MemoryRanges ranges;
  ranges.add_written("inputs.scorer.", inputs.scorer).add_written("inputs.adjust.", inputs.adjust);
  ranges.add_written("inputs.selector.", inputs.selector).add_written("inputs.gate.", inputs.gate);
  return ranges.add_written("inputs.capacity.", inputs.capacity);
}

/// logits -> Assignment with weights, grouped by expert, and the balancers' losses.
KOKOMO_LAYER_TEMPLATE
void KOKOMO_LAYER::route(Exec const& exec, State const& state, Parameters const& parameters, Inputs const& inputs,
                         Routing<T, Exec> const& routing, Saved const& saved, ForwardScratch const& scratch) const {
  using Score = detail::score_of_t<Gate>;
  auto const& a = saved.assignment;
  auto const group = [&] { detail::group_by_expert(exec, a, scratch.grouping); };
  auto const weigh = [&] {
    if constexpr (weighs_shared)
      m_policies.gate.template forward<T>(exec, parameters.gate, routing, inputs.gate, a, saved.gate);
    else
      m_policies.gate.template forward<T>(exec, parameters.gate, routing, inputs.gate, a);
  };
  auto const record = [&] {
    detail::for_each(exec, "kokomo::Layer::record", 1, detail::RecordChosen<T, Exec>{a, saved.chosen.data()});
    if constexpr (detail::ObservesRouting<Balancer, T, Exec>)
      m_policies.balancer.template observe<T>(exec, routing, a, state.balancer, saved.balancer, saved.loss);
    if constexpr (detail::ObservesParameters<Balancer, Parameters, T, Exec>)
      m_policies.balancer.template observe_parameters<T>(exec, parameters, routing, saved.balancer, saved.loss);
  };

  if constexpr (detail::PreparesSelection<Balancer, Score, T, Exec>)
    m_policies.balancer.template prepare<Score, T>(exec, routing, state.balancer, saved.balancer);
  m_policies.router.selector.template select<Score>(exec, routing, state.selector, inputs.selector, a,
                                                    scratch.selector);
  if constexpr (has_capacity) {
    group(); // queues by expert; balancers count what was chosen, before any drop
    record();
    if constexpr (std::is_same_v<inputs_t<Capacity, T, Exec>, Nothing>)
      m_policies.capacity.template apply<Score>(exec, routing, a, scratch.capacity);
    else
      m_policies.capacity.template apply<Score>(exec, routing, inputs.capacity, a, scratch.capacity);
    weigh();
    group();
  } else {
    weigh();
    group();
    record();
  }
  detail::for_each(exec, "kokomo::Layer::count_unrouted", a.tokens,
                   detail::CountUnrouted<T, Exec>{a, saved.status.data(), saved.chosen.data()});
}

KOKOMO_LAYER_TEMPLATE
auto KOKOMO_LAYER::expert_rows(Inputs const& inputs, Saved const& saved, Sizes const& sizes,
                               detail::WorkerScratch const& workers) const -> ExpertRows<T, Exec> {
  auto const& a = executed(saved);
  T const* data = nullptr;
  if constexpr (has_space)
    data = saved.space.x.data();
  else
    data = inputs.x.checked("x", {sizes.tokens, sizes.hidden}).data();
  Compute const* activations = nullptr;
  if constexpr (detail::SharesActivations<Scorer, T, Exec>) activations = saved.scorer.activations.data();
  return {{data, expert_sizes(sizes).hidden, a.token_of_row.data(), weighs_input ? a.weight_of_row.data() : nullptr},
          a.grouped(a.experts),
          workers,
          activations};
}

KOKOMO_LAYER_TEMPLATE
Sizes KOKOMO_LAYER::check_forward(Parameters const& parameters, State const& state, Inputs const& inputs,
                                  MatrixArgument<T, Exec> const* y, Workspace<Exec> const& workspace,
                                  Tape<Exec> const& tape) const {
  Sizes const sizes = sizes_of(inputs.x.extent(0));
  detail::Arena counted, taped;
  (void)ForwardScratch(counted, *this, sizes, workspace.workers());
  check_call(parameters, state, inputs, sizes, workspace, counted.used());
  if (y != nullptr) (void)y->checked("y", {sizes.tokens, sizes.hidden});
  (void)lay_out(taped, sizes);
  detail::require(taped.used() <= tape.bytes(), 205, "the tape has ", tape.bytes(), " bytes, expected at least ",
                  taped.used(), " (Layer::plan)");
  auto written = written_memory_of(inputs);
  if (y != nullptr) written.add("y", *y);
  written.add_block("workspace", workspace)
      .add_block("tape", tape)
      .require_apart_from(memory_of(parameters, state, inputs));
  return sizes;
}

KOKOMO_LAYER_TEMPLATE
void KOKOMO_LAYER::run_routing(Exec const& exec, Parameters const& parameters, State const& state, Inputs const& inputs,
                               Saved const& saved, Sizes const& sizes, ForwardScratch const& scratch) const {
  detail::for_each(exec, "kokomo::Layer::reset", 1, detail::ResetStatus{saved.status.data()});
  detail::fill(exec, "kokomo::Layer::reset", saved.loss.data(), 1, 0);
  auto const routing = this->routing(state, inputs, saved, sizes, inputs.mode, inputs.step);
  auto const score = [&](auto const&... state_and_mask) {
    m_policies.router.scorer.template forward<T>(
        exec, parameters.router, state_and_mask..., router_input(inputs, sizes),
        scorer_inputs(inputs, inputs.mode, inputs.step), saved.scored, saved.scorer, scratch.scorer, scratch.workers);
  };
  if constexpr (detail::keeps_state_v<Scorer, T, Exec>)
    score(state.scorer, routing.token_mask);
  else
    score();
  if constexpr (has_adjust) {
    detail::convert(exec, "kokomo::Layer::adjust", saved.scored.data(), saved.logits.data(),
                    offset_t(saved.logits.size()));
    m_policies.adjust.template adjust<T>(exec, parameters.adjust, routing, state.adjust, inputs.adjust, saved.logits,
                                         saved.adjust);
  }
  detail::for_each(exec, "kokomo::Layer::count_non_finite", sizes.tokens, detail::CountNonFinite<T, Exec>{routing});
  route(exec, state, parameters, inputs, routing, saved, scratch);
}

KOKOMO_LAYER_TEMPLATE
void KOKOMO_LAYER::run_experts(Exec const& exec, Parameters const& parameters, State const& state, Inputs const& inputs,
                               MatrixArgument<T, Exec> const& y, Routing<T, Exec> const& routing, Saved const& saved,
                               ForwardScratch const& scratch) const {
  Sizes const& sizes = routing.sizes;
  auto const x = inputs.x.checked("x", {sizes.tokens, sizes.hidden});
  auto const width = expert_sizes(sizes).hidden;
  if constexpr (has_placement)
    m_policies.placement.template place<T>(exec, routing, state.placement, saved.assignment, saved.placement,
                                           scratch.placement, weighs_input || reduces_rows);
  auto const& a = executed(saved);
  if constexpr (has_space) m_policies.space.template enter<T>(exec, parameters.space, x, saved.space, scratch.workers);
  Compute* combined = scratch.routed.data();
  if constexpr (detail::MapsBack<Space, T, Exec>) combined = saved.space.combined.data();
  auto const rows = expert_rows(inputs, saved, sizes, scratch.workers);
  if constexpr (by_token) {
    routed().template forward_by_token<T>(exec, parameters.experts, rows.x.data, a, combined, width, saved.experts,
                                          scratch.experts);
  } else if constexpr (combines_rows) {
    detail::CombinedRows<Compute> const target{combined, sizes.tokens, a.token_of_row.data(),
                                               weighs_input ? nullptr : a.weight_of_row.data()};
    routed().template forward_combined<T>(exec, parameters.experts, rows, target, width, saved.experts,
                                          scratch.experts);
  } else if constexpr (reduces_rows) {
    routed().template forward<T>(exec, parameters.experts, rows, saved.combine.rows, saved.experts, scratch.experts);
    m_policies.combine.template reduce<T>(exec, parameters.combine, a, scratch.routed, saved.combine, scratch.combine,
                                          scratch.workers);
  } else {
    routed().template forward<T>(exec, parameters.experts, rows, scratch.rows, saved.experts, scratch.experts);
    detail::gather_sum(exec, "kokomo::Layer::combine", a, scratch.rows.data(), combined, width, !weighs_input);
  }
  if constexpr (detail::MapsBack<Space, T, Exec>)
    m_policies.space.template leave<T>(exec, parameters.space, scratch.routed, saved.space, scratch.workers);

  Compute const* shared = nullptr;
  if constexpr (has_shared) {
    Matrix<Compute, Exec> joint;
    if constexpr (weighs_shared) joint = saved.gate.shared_weight;
    m_policies.experts.template forward_shared<T>(exec, parameters.shared, x, joint, scratch.shared_out, saved.shared,
                                                  scratch.shared, scratch.workers);
    shared = scratch.shared_out.data();
  }
  if constexpr (has_complement) shared = saved.scorer.complement.data();
  m_policies.combine.template finish<T>(exec, parameters.combine, scratch.routed.data(), shared,
                                        y.checked("y", {sizes.tokens, sizes.hidden}), saved.combine);
}

KOKOMO_LAYER_TEMPLATE
void KOKOMO_LAYER::forward(Exec const& exec, Parameters const& parameters, State const& state, Inputs const& inputs,
                           MatrixArgument<T, Exec> const& y, Workspace<Exec> const& workspace, Tape<Exec>& tape) const {
  Sizes const sizes = check_forward(parameters, state, inputs, &y, workspace, tape);
  Kokkos::Profiling::ScopedRegion const region("kokomo::Layer::forward");
  detail::Arena arena(workspace.data()), taped(tape.data());
  ForwardScratch const scratch(arena, *this, sizes, workspace.workers());
  Saved const saved = lay_out(taped, sizes);
  tape.record(sizes.tokens, inputs.mode, inputs.step);
  run_routing(exec, parameters, state, inputs, saved, sizes, scratch);
  run_experts(exec, parameters, state, inputs, y, routing(state, inputs, saved, sizes, inputs.mode, inputs.step), saved,
              scratch);
}

KOKOMO_LAYER_TEMPLATE
void KOKOMO_LAYER::forward_routing(Exec const& exec, Parameters const& parameters, State const& state,
                                   Inputs const& inputs, Workspace<Exec> const& workspace, Tape<Exec>& tape) const {
  Sizes const sizes = check_forward(parameters, state, inputs, nullptr, workspace, tape);
  Kokkos::Profiling::ScopedRegion const region("kokomo::Layer::forward_routing");
  detail::Arena arena(workspace.data()), taped(tape.data());
  ForwardScratch const scratch(arena, *this, sizes, workspace.workers());
  tape.record(sizes.tokens, inputs.mode, inputs.step);
  run_routing(exec, parameters, state, inputs, lay_out(taped, sizes), sizes, scratch);
}

KOKOMO_LAYER_TEMPLATE
void KOKOMO_LAYER::forward_experts(Exec const& exec, Parameters const& parameters, State const& state,
                                   Inputs const& inputs, MatrixArgument<T, Exec> const& y,
                                   Workspace<Exec> const& workspace, Tape<Exec> const& tape) const {
  Sizes const sizes = check_forward(parameters, state, inputs, &y, workspace, tape);
  detail::require(tape.tokens() == sizes.tokens, 207, "the tape holds ", tape.tokens(),
                  " tokens, expected those of x: ", sizes.tokens);
  Kokkos::Profiling::ScopedRegion const region("kokomo::Layer::forward_experts");
  detail::Arena arena(workspace.data());
  ForwardScratch const scratch(arena, *this, sizes, workspace.workers());
  Saved const saved = this->saved(tape);
  run_experts(exec, parameters, state, inputs, y, routing(state, inputs, saved, sizes, tape.mode(), tape.step()), saved,
              scratch);
}

} // namespace kokomo::inline v0

#endif
