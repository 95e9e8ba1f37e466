// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_LAYER_BACKWARD_HPP
#define KOKOMO_DETAIL_LAYER_BACKWARD_HPP

// Included by kokomo/layer.hpp.

namespace kokomo::inline v0 {

KOKOMO_LAYER_TEMPLATE
void KOKOMO_LAYER::backward(Exec const& exec, Parameters const& parameters, State const& state, Inputs const& inputs,
                            MatrixArgument<T const, Exec> const& dy_argument, InputGradients const& d_inputs,
                            Parameters const& grads, Workspace<Exec> const& workspace, Tape<Exec> const& tape,
                            Write write) const {
  detail::check_backward<Layer>();
  using detail::require;
  Sizes const sizes = sizes_of(inputs.x.extent(0));
  detail::Arena counted;
  (void)BackwardScratch(counted, *this, sizes, workspace.workers());
  check_call(parameters, state, inputs, sizes, workspace, counted.used());
  require(tape.tokens() == sizes.tokens, 207, "the tape holds ", tape.tokens(),
          " tokens, expected those of x: ", sizes.tokens);
  Saved const saved = this->saved(tape);
  detail::check_extents("gradients", grads, m_parameter_extents);
  auto const x = inputs.x.checked("x", {sizes.tokens, sizes.hidden});
  auto const dy = dy_argument.checked("dy", {sizes.tokens, sizes.hidden});
  auto const dx_out = d_inputs.x.checked("dx", {sizes.tokens, sizes.hidden});
  bool const own_router_input = inputs.router_input.given();
  require(own_router_input == d_inputs.router_input.given(), 203, "d_inputs.router_input is ",
          own_router_input ? "missing, though inputs.router_input was given"
                           : "given, though inputs.router_input is not");
  if (own_router_input)
    (void)d_inputs.router_input.checked("d_inputs.router_input", {sizes.tokens, sizes.router_width});
  if constexpr (detail::ChecksInputGradients<Scorer, T, Exec>)
    m_policies.router.scorer.template check_input_gradients<T, Exec>(d_inputs.scorer, sizes);
  written_memory_of(inputs)
      .add("dx", d_inputs.x)
      .add("d_inputs.router_input", d_inputs.router_input)
      .add_written("d_inputs.scorer.", d_inputs.scorer)
      .add_views("gradients.", grads)
      .add_block("workspace", workspace)
      .require_apart_from(memory_of(parameters, state, inputs).add("dy", dy_argument).add_block("tape", tape));

  Kokkos::Profiling::ScopedRegion const region("kokomo::Layer::backward");
  detail::Arena arena(workspace.data());
  BackwardScratch const scratch(arena, *this, sizes, workspace.workers());
  auto const& a = saved.assignment;
  auto const width = expert_sizes(sizes).hidden;
  auto const routing = this->routing(state, inputs, saved, sizes, tape.mode(), tape.step());

  // y -> routed and shared part
  Compute* d_shared = has_shared ? scratch.d_shared.data() : nullptr;
  if constexpr (has_complement) d_shared = scratch.scorer.d_complement.data();
  m_policies.combine.template finish_backward<T>(exec, parameters.combine, dy, scratch.d_routed.data(), d_shared,
                                                 grads.combine, write, saved.combine, scratch.combine);
  auto d_combined = scratch.d_routed;
  if constexpr (detail::MapsBack<Space, T, Exec>) {
    m_policies.space.template leave_backward<T>(exec, parameters.space, scratch.d_routed, scratch.d_combined,
                                                grads.space, write, saved.space, scratch.workers);
    d_combined = scratch.d_combined;
  }

  // experts: rows of d_combined -> d_entered, the gradient of what they read, and the weights' gradients
  auto const rows = expert_rows(inputs, saved, sizes, scratch.workers);
  auto const& ran = executed(saved);
  detail::RowSource<Compute, Compute> const d_out{d_combined.data(), width, ran.token_of_row.data()};
  Compute const* const weight = weighs_input ? nullptr : ran.weight_of_row.data();
  Compute* const d_weight = weighs_input ? nullptr : scratch.d_weight_rows.data();
  auto const d_entered = has_space ? scratch.d_entered : scratch.dx;
  Compute* d_activations = nullptr; // what the experts continue from belongs to the scorer, which adds its own part
  if constexpr (detail::SharesActivations<Scorer, T, Exec>) {
    d_activations = scratch.scorer.d_activations.data();
    detail::fill(exec, "kokomo::Layer::reset", d_activations, offset_t(scratch.scorer.d_activations.size()), 0);
  }
  if constexpr (by_token) {
    routed().template backward_by_token<T>(exec, parameters.experts, rows.x.data, ran, d_combined.data(), width,
                                           d_entered.data(), scratch.d_weight_rows.data(), grads.experts, write,
                                           saved.experts, scratch.experts);
  } else if constexpr (combines_gradients) {
    CombinedRowGradients<T, Exec> const d{
        d_out,
        weight,
        width,
        {d_entered.data(), sizes.tokens, ran.token_of_row.data(), weighs_input ? ran.weight_of_row.data() : nullptr},
        Write::overwrite,
        d_weight,
        weighs_input ? scratch.d_weight_rows.data() : nullptr};
    routed().template backward_combined<T>(exec, parameters.experts, rows, d, grads.experts, write, saved.experts,
                                           scratch.experts);
  } else if constexpr (reduces_rows) {
    m_policies.combine.template reduce_backward<T>(exec, parameters.combine, ran, d_combined, scratch.d_weight_rows,
                                                   grads.combine, write, saved.combine, scratch.combine,
                                                   scratch.workers);
    ExpertRowGradients<T, Exec> const d{
        {scratch.combine.d_rows.data(), width}, nullptr, scratch.dx_rows, nullptr, d_activations};
    routed().template backward<T>(exec, parameters.experts, rows, d, grads.experts, write, saved.experts,
                                  scratch.experts);
    detail::gather_sum(exec, "kokomo::Layer::dx", a, scratch.dx_rows.data(), d_entered.data(), width, false);
  } else {
    ExpertRowGradients<T, Exec> const d{d_out, weight, scratch.dx_rows, d_weight, d_activations};
    routed().template backward<T>(exec, parameters.experts, rows, d, grads.experts, write, saved.experts,
                                  scratch.experts);
    if constexpr (weighs_input) {
      auto unscaled = rows.x;
      unscaled.scale = nullptr;
      detail::for_each(
          exec, "kokomo::Layer::d_weight", rows.rows.rows,
          detail::RowDot<T, Exec>{rows.rows, scratch.dx_rows.data(), unscaled, width, scratch.d_weight_rows.data()});
    }
    detail::gather_sum(exec, "kokomo::Layer::dx", ran, scratch.dx_rows.data(), d_entered.data(), width, weighs_input);
  }
  if constexpr (has_space) {
    detail::fill(exec, "kokomo::Layer::reset", scratch.dx.data(), offset_t(scratch.dx.size()), 0);
    m_policies.space.template enter_backward<T>(exec, parameters.space, x, d_entered, scratch.dx, grads.space, write,
                                                saved.space, scratch.space, scratch.workers);
  }
  if constexpr (has_shared)
    m_policies.experts.template backward_shared<T>(exec, parameters.shared, x, scratch.d_shared, scratch.dx,
                                                   scratch.d_joint, grads.shared, write, saved.shared, scratch.shared,
                                                   scratch.workers);

  // weights and losses -> logits -> router input
  if constexpr (has_placement)
    m_policies.placement.template place_backward<T>(exec, saved.placement, scratch.d_weight_rows.data(),
                                                    scratch.d_weight.data());
  else
    detail::for_each(exec, "kokomo::Layer::d_weight", sizes.tokens,
                     detail::RowsToEntries<T, Exec>{a, scratch.d_weight_rows.data(), scratch.d_weight.data()});
  if constexpr (weighs_shared)
    m_policies.gate.template backward<T>(exec, parameters.gate, routing, a, scratch.d_weight, scratch.d_joint,
                                         scratch.d_logits, grads.gate, write, scratch.gate);
  else
    m_policies.gate.template backward<T>(exec, parameters.gate, routing, a, scratch.d_weight, scratch.d_logits,
                                         grads.gate, write, scratch.gate);
  if constexpr (detail::HasLossGradient<Balancer, T, Exec>)
    m_policies.balancer.template backward<T>(exec, routing, a, saved.balancer, scratch.d_logits);
  if constexpr (detail::AdjustsGradient<Adjust, T, Exec>)
    m_policies.adjust.template adjust_backward<T>(exec, parameters.adjust, routing, state.adjust, inputs.adjust,
                                                  saved.adjust, scratch.d_logits, grads.adjust, write);

  if (own_router_input)
    detail::fill(exec, "kokomo::Layer::reset", scratch.d_router_input.data(), offset_t(scratch.d_router_input.size()),
                 0);
  auto const score_backward = [&](auto const&... state_and_mask) {
    m_policies.router.scorer.template backward<T>(
        exec, parameters.router, state_and_mask..., router_input(inputs, sizes),
        scorer_inputs(inputs, tape.mode(), tape.step()), saved.scored, scratch.d_logits,
        own_router_input ? scratch.d_router_input : scratch.dx, d_inputs.scorer, grads.router, write, saved.scorer,
        scratch.scorer, scratch.workers);
  };
  if constexpr (detail::keeps_state_v<Scorer, T, Exec>)
    score_backward(state.scorer, routing.token_mask);
  else
    score_backward();
  if constexpr (detail::ObservesParameters<Balancer, Parameters, T, Exec>)
    m_policies.balancer.template backward_parameters<T>(exec, parameters, routing, saved.balancer, grads);

  detail::convert(exec, "kokomo::Layer::dx", scratch.dx.data(), dx_out.data(), offset_t(dx_out.size()));
  if (own_router_input) {
    auto const out = d_inputs.router_input.checked("d_inputs.router_input", {sizes.tokens, sizes.router_width});
    detail::convert(exec, "kokomo::Layer::d_router_input", scratch.d_router_input.data(), out.data(),
                    offset_t(out.size()));
  }
}

} // namespace kokomo::inline v0

#undef KOKOMO_LAYER_TEMPLATE
#undef KOKOMO_LAYER

#endif
