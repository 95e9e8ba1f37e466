// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_SOFT_MOE_HPP
#define KOKOMO_SOFT_MOE_HPP

#include <kokomo/argument.hpp>
#include <kokomo/detail/aliasing.hpp>
#include <kokomo/detail/layer_kernels.hpp>
#include <kokomo/detail/linear.hpp>
#include <kokomo/detail/rms_norm.hpp>
#include <kokomo/detail/soft_moe_kernels.hpp>
#include <kokomo/detail/soft_moe_memory.hpp>
#include <kokomo/experts/feed_forward.hpp>
#include <kokomo/workspace.hpp>

#include <Kokkos_Profiling_ScopedRegion.hpp>

#include <cmath>
#include <limits>

namespace kokomo::inline v0 {

/// How tokens and slots are normalised before their product.
enum class SlotNorm {
  unit, ///< to length one, logits times a learned scale; slots are mixtures of x as it is (V-MoE)
  gain  ///< to length sqrt(H) times a learned gain, both; slots are mixtures of the normalised x (soft-moe-pytorch)
};

/// Soft mixture of experts: slots in place of choices. Every slot of an expert reads a mixture of all tokens of a sequence,
/// every token a mixture of all slots' outputs,
///
///     z_ts = <norm(x_t), norm(slot_s)>        D = softmax of z over the tokens of a sequence, C = softmax over slots
///     slot input s = sum_t D_ts x_t           y_t = sum_s C_ts expert(slot input s)
///
/// Nothing is chosen, dropped or balanced, so this is a layer of its own beside Layer: it reuses the experts policies, the
/// products, workspace and tape. Not causal. Source: google-research/vmoe soft_moe router, soft-moe-pytorch
/// (docs/families/soft_moe.md).
///
/// As with Layer, parameters, gradients, workspace and tape are the caller's; calls enqueue work on the execution space
/// instance, allocate nothing and fence nothing; the same input gives the same bits for any number of threads.
template <class ExpertsT = AnyPlainExperts, class T = float, class ExecT = Kokkos::DefaultExecutionSpace,
          class... SlotPolicies>
class SoftMoe {
  static_assert(
      sizeof...(SlotPolicies) == 0,
      "kokomo::SoftMoe: nothing is chosen, so nothing can overflow or be out of balance: it takes no capacity, "
      "no balancing loss and no other policy beside its experts (docs/families/soft_moe.md)");

public:
  using Experts = ExpertsT;
  using Storage = T;
  using Compute = compute_t<T>;
  using Exec = ExecT;
  static constexpr bool causal = false;

  struct Policies {
    offset_t slots = 1;               ///< of each expert in each sequence, >= 1; V-MoE: round(factor * n / E)
    offset_t tokens_per_sequence = 0; ///< >= 0; 0: the whole batch is one sequence
    SlotNorm norm = SlotNorm::unit;
    float epsilon = 1e-6f; ///< >= 0, added to the squared length
    Experts experts{};
  };

  struct Parameters {
    OwnedMatrix<Compute, Exec> slots;     ///< [experts * slots, hidden]
    OwnedVector<Compute, Exec> scale;     ///< [1], SlotNorm::unit; begin with one
    OwnedVector<Compute, Exec> norm;      ///< [hidden], SlotNorm::gain
    OwnedVector<Compute, Exec> slot_norm; ///< [hidden], SlotNorm::gain
    parameters_t<Experts, T, Exec> experts;

    template <class F> void for_each(F&& f) const {
      f(Name{"router.", "slots"}, slots);
      if (scale.extent(0) > 0) f(Name{"router.", "scale"}, scale);
      if (norm.extent(0) > 0) f(Name{"router.", "norm"}, norm);
      if (slot_norm.extent(0) > 0) f(Name{"router.", "slot_norm"}, slot_norm);
      experts.for_each(f, "experts.");
    }
  };

  struct Inputs {
    MatrixArgument<T const, Exec> x{};                ///< [tokens, hidden]
    VectorArgument<index_t const, Exec> token_mask{}; ///< [tokens], 0: in no mixture, y is 0; not given: all are
  };

  /// What forward leaves in a tape.
  struct Saved {
    detail::SlotOrder<Exec> order;
    Matrix<Compute, Exec> normalized;                ///< [tokens, hidden]
    Matrix<Compute, Exec> normalized_slots;          ///< [slots, hidden]
    Matrix<Compute, Exec> logits, dispatch, combine; ///< [tokens, slots]
    Matrix<T, Exec> slot_in;                         ///< [sequences * slots, hidden]
    Matrix<Compute, Exec> slot_out;                  ///< [sequences * slots, hidden]
    saved_t<Experts, T, Exec> experts;
  };

  /// \throws kokomo::Error 101 for a shape that makes no sense, 106 for such settings, 105 for too many slots
  explicit SoftMoe(Shape const& shape, Policies const& policies = {}) : m_shape(shape), m_policies(policies) {
    using detail::require;
    require(shape.tokens >= 0, 101, "shape.tokens = ", shape.tokens, ", expected >= 0");
    require(shape.hidden >= 1, 101, "shape.hidden = ", shape.hidden, ", expected >= 1");
    require(shape.experts >= 1, 101, "shape.experts = ", shape.experts, ", expected >= 1");
    require(policies.slots >= 1, 106, "SoftMoe slots = ", policies.slots, ", expected >= 1");
    require(policies.tokens_per_sequence >= 0, 106, "SoftMoe tokens_per_sequence = ", policies.tokens_per_sequence,
            ", expected >= 0");
    require(policies.epsilon >= 0, 106, "SoftMoe epsilon = ", policies.epsilon, ", expected >= 0");
    offset_t const most = std::numeric_limits<index_t>::max() / 2;
    require(shape.tokens <= most && shape.experts <= most / policies.slots &&
                sequences(shape.tokens).count() <= most / (shape.experts * policies.slots),
            105, "SoftMoe has more than 2^30 tokens or slots");
    detail::check_settings(policies.experts, expert_sizes(shape.tokens));
    m_parameter_extents = detail::extents_of(parameters(Allocator<Exec>{}));
  }

  Shape const& shape() const { return m_shape; }
  Policies const& policies() const { return m_policies; }
  /// Slots of one sequence.
  offset_t slots() const { return m_shape.experts * m_policies.slots; }

  Parameters make_parameters(Exec const& exec) const { return parameters(Allocator<Exec>(exec)); }
  Parameters describe_parameters() const { return parameters(Allocator<Exec>{}); }

  Plan plan(Exec const& exec) const {
    Plan plan;
    plan.workers = detail::product_workers(exec);
    detail::Arena forward, backward, tape;
    (void)ForwardScratch(forward, m_policies.experts, expert_sizes(m_shape.tokens), plan.workers);
    (void)BackwardScratch(backward, m_policies.experts, expert_sizes(m_shape.tokens), plan.workers);
    (void)lay_out(tape, m_shape.tokens);
    plan.workspace_bytes = std::max(forward.used(), backward.used());
    plan.tape_bytes = tape.used();
    return plan;
  }

  /// y = layer(x), for up to shape().tokens tokens; asynchronous on exec.
  /// \param[out] y [tokens, hidden]
  /// \throws kokomo::Error 2xx, 3xx for arguments whose extents, layout or memory do not fit; nothing is changed then
  void forward(Exec const& exec, Parameters const& parameters, Inputs const& inputs,
               MatrixArgument<T, Exec> const& y_argument, Workspace<Exec> const& workspace, Tape<Exec>& tape) const {
    offset_t const tokens = inputs.x.extent(0), hidden = m_shape.hidden, slots = this->slots();
    detail::Arena counted;
    (void)ForwardScratch(counted, m_policies.experts, expert_sizes(tokens), workspace.workers());
    check_call(parameters, inputs, workspace, counted.used());
    auto const given_x = inputs.x.checked("x", {tokens, hidden});
    auto const y = y_argument.checked("y", {tokens, hidden});
    detail::Arena taped(tape.data());
    Saved const saved = lay_out(taped, tokens);
    detail::require(taped.used() <= tape.bytes(), 205, "the tape has ", tape.bytes(), " bytes, expected at least ",
                    taped.used(), " (SoftMoe::plan)");
    detail::MemoryRanges()
        .add("y", y_argument)
        .add_block("workspace", workspace)
        .add_block("tape", tape)
        .require_apart_from(memory_of(parameters, inputs));
    Kokkos::Profiling::ScopedRegion const region("kokomo::SoftMoe::forward");
    detail::Arena arena(workspace.data());
    ForwardScratch const scratch(arena, m_policies.experts, expert_sizes(tokens), workspace.workers());
    tape.record(tokens, Mode::inference, 0);

    auto const mask = token_mask(inputs, tokens);
    auto const x = without_padding(exec, given_x, mask, padding, scratch.x);
    auto const sequences = this->sequences(tokens);
    auto const& order = saved.order;
    detail::for_each(exec, "kokomo::SoftMoe::order",
                     Kokkos::max(Kokkos::max(tokens, order.rows()), Kokkos::max(order.sequences, m_shape.experts) + 1),
                     detail::OrderSlots<Exec>{order, sequences});
    detail::rms_norm(exec, "kokomo::SoftMoe::norm", x.data(), saved.normalized.data(), tokens, hidden,
                     norm_settings(parameters.norm));
    detail::rms_norm(exec, "kokomo::SoftMoe::slot_norm", static_cast<Compute const*>(parameters.slots.data()),
                     saved.normalized_slots.data(), slots, hidden, norm_settings(parameters.slot_norm));
    detail::linear(exec, "kokomo::SoftMoe::logits", static_cast<Compute const*>(saved.normalized.data()), tokens,
                   hidden, static_cast<Compute const*>(saved.normalized_slots.data()),
                   static_cast<Compute const*>(nullptr), slots, saved.logits.data(), Write::overwrite, scratch.workers);
    Compute const* const scale = parameters.scale.data();
    detail::for_each(exec, "kokomo::SoftMoe::dispatch_softmax",
                     order.sequences * ((slots + detail::slot_block - 1) / detail::slot_block),
                     detail::DispatchSoftmax<Compute, Exec>{saved.logits, saved.dispatch, mask, sequences, scale});
    detail::for_each(exec, "kokomo::SoftMoe::combine_softmax", tokens,
                     detail::CombineSoftmax<Compute, Exec>{saved.logits, saved.combine, mask, scale});

    auto const by_sequence = order.by_sequence(tokens);
    with_mixed(x, saved, [&](auto const& mixed) {
      detail::grouped_outer_product(exec, "kokomo::SoftMoe::mix", by_sequence, rows_of(saved.dispatch), slots, mixed,
                                    hidden, of_slots(saved.slot_in), Write::overwrite, scratch.workers);
    });
    m_policies.experts.template forward<T>(exec, parameters.experts, expert_rows(saved, scratch.workers), scratch.rows,
                                           saved.experts, scratch.experts);
    detail::for_each(
        exec, "kokomo::SoftMoe::to_slots", order.rows(),
        detail::RowsToSlots<Compute>{scratch.rows.data(), saved.slot_out.data(), order.slot_of_row.data(), hidden});
    detail::grouped_product(exec, "kokomo::SoftMoe::combine", by_sequence, rows_of(saved.combine), slots,
                            constant(of_slots(saved.slot_out)).transposed(), detail::BiasRef<Compute const>{}, hidden,
                            detail::RowTarget<T>{y.data(), hidden}, Write::overwrite, scratch.workers);
  }

  /// Gradients of sum(y * dy), for the forward pass that the tape holds; inputs and parameters as then. dx is overwritten.
  /// \throws kokomo::Error as forward; 207 for a tape without a forward pass of as many tokens
  void backward(Exec const& exec, Parameters const& parameters, Inputs const& inputs,
                MatrixArgument<T const, Exec> const& dy_argument, MatrixArgument<T, Exec> const& dx_argument,
                Parameters const& grads, Workspace<Exec> const& workspace, Tape<Exec> const& tape,
                Write write = Write::overwrite) const {
    offset_t const tokens = inputs.x.extent(0), hidden = m_shape.hidden, slots = this->slots();
    detail::Arena counted;
    (void)BackwardScratch(counted, m_policies.experts, expert_sizes(tokens), workspace.workers());
    check_call(parameters, inputs, workspace, counted.used());
    detail::require(tape.tokens() == tokens, 207, "the tape holds ", tape.tokens(),
                    " tokens, expected those of x: ", tokens);
    detail::check_extents("gradients", grads, m_parameter_extents);
    auto const given_x = inputs.x.checked("x", {tokens, hidden});
    auto const given_dy = dy_argument.checked("dy", {tokens, hidden});
    auto const dx = dx_argument.checked("dx", {tokens, hidden});
    detail::MemoryRanges()
        .add("dx", dx_argument)
        .add_views("gradients.", grads)
        .add_block("workspace", workspace)
        .require_apart_from(memory_of(parameters, inputs).add("dy", dy_argument).add_block("tape", tape));
    Kokkos::Profiling::ScopedRegion const region("kokomo::SoftMoe::backward");
    detail::Arena taped(tape.data()), arena(workspace.data());
    Saved const saved = lay_out(taped, tokens);
    BackwardScratch const scratch(arena, m_policies.experts, expert_sizes(tokens), workspace.workers());

    using C = Compute;
    auto const mask = token_mask(inputs, tokens);
    auto const x = without_padding(exec, given_x, mask, padding, scratch.x);
    auto const dy = without_padding(exec, given_dy, mask, 0, scratch.dy);
    auto const sequences = this->sequences(tokens);
    auto const& order = saved.order;
    auto const by_sequence = order.by_sequence(tokens);
    auto const& workers = scratch.workers;
    detail::RowSource<T, C> const dy_rows{dy.data(), hidden};
    // y = C slot_out
    detail::grouped_outer_product(exec, "kokomo::SoftMoe::d_slot_out", by_sequence, rows_of(saved.combine), slots,
                                  dy_rows, hidden, of_slots(scratch.d_slots), Write::overwrite, workers);
    detail::grouped_product(exec, "kokomo::SoftMoe::d_combine", by_sequence, dy_rows, hidden,
                            constant(of_slots(saved.slot_out)), detail::BiasRef<C const>{}, slots,
                            detail::RowTarget<C>{scratch.d_combine.data(), slots}, Write::overwrite, workers);
    // experts
    ExpertRowGradients<T, Exec> const d_rows{
        {scratch.d_slots.data(), hidden, order.slot_of_row.data()}, nullptr, scratch.d_rows, nullptr};
    m_policies.experts.template backward<T>(exec, parameters.experts, expert_rows(saved, workers), d_rows,
                                            grads.experts, write, saved.experts, scratch.experts);
    detail::for_each(
        exec, "kokomo::SoftMoe::to_slots", order.rows(),
        detail::RowsToSlots<C>{scratch.d_rows.data(), scratch.d_slots.data(), order.slot_of_row.data(), hidden});
    // slot_in = D^T x
    with_mixed(x, saved, [&](auto const& mixed) {
      detail::grouped_product(exec, "kokomo::SoftMoe::d_dispatch", by_sequence, mixed, hidden,
                              constant(of_slots(scratch.d_slots)), detail::BiasRef<C const>{}, slots,
                              detail::RowTarget<C>{scratch.d_dispatch.data(), slots}, Write::overwrite, workers);
    });
    bool const raw = m_policies.norm == SlotNorm::unit;
    auto const& d_mixed = raw ? scratch.dx : scratch.d_normalized;
    detail::grouped_product(exec, "kokomo::SoftMoe::d_mixed", by_sequence, rows_of(saved.dispatch), slots,
                            constant(of_slots(scratch.d_slots)).transposed(), detail::BiasRef<C const>{}, hidden,
                            detail::RowTarget<C>{d_mixed.data(), hidden}, Write::overwrite, workers);
    if (!raw) detail::fill(exec, "kokomo::SoftMoe::reset", scratch.dx.data(), tokens * hidden, 0);
    // both softmaxes and the product of tokens and slots
    detail::for_each(exec, "kokomo::SoftMoe::along", order.rows(),
                     detail::AlongDispatch<C, Exec>{saved.dispatch, scratch.d_dispatch, sequences, scratch.along});
    detail::for_each(exec, "kokomo::SoftMoe::d_logits", tokens,
                     detail::SlotLogitsGradient<C, Exec>{saved.logits, saved.dispatch, saved.combine,
                                                         scratch.d_dispatch, scratch.d_combine, scratch.along,
                                                         sequences, parameters.scale.data(), scratch.d_scale});
    if (raw)
      detail::for_each(exec, "kokomo::SoftMoe::d_scale", 1,
                       detail::SumOfScale<C, Exec>{scratch.d_scale, grads.scale.data(), write});
    C const* const d_logits = scratch.d_combine.data();
    detail::linear_input_gradient(exec, "kokomo::SoftMoe::d_normalized", d_logits, tokens, hidden,
                                  static_cast<C const*>(saved.normalized_slots.data()), slots,
                                  scratch.d_normalized.data(), raw ? Write::overwrite : Write::add, workers);
    detail::linear_weight_gradient(exec, "kokomo::SoftMoe::d_normalized_slots", d_logits, tokens, slots,
                                   static_cast<C const*>(saved.normalized.data()), hidden,
                                   scratch.d_normalized_slots.data(), Write::overwrite, workers);
    detail::rms_norm_backward(exec, "kokomo::SoftMoe::norm_backward", x.data(),
                              static_cast<C const*>(scratch.d_normalized.data()), scratch.dx.data(),
                              scratch.inverse.data(), tokens, hidden, norm_settings(parameters.norm), grads.norm.data(),
                              write);
    if (write == Write::overwrite) detail::fill(exec, "kokomo::SoftMoe::reset", grads.slots.data(), slots * hidden, 0);
    detail::rms_norm_backward(
        exec, "kokomo::SoftMoe::slot_norm_backward", static_cast<C const*>(parameters.slots.data()),
        static_cast<C const*>(scratch.d_normalized_slots.data()), grads.slots.data(), scratch.inverse.data(), slots,
        hidden, norm_settings(parameters.slot_norm), grads.slot_norm.data(), write);
    detail::convert(exec, "kokomo::SoftMoe::dx", scratch.dx.data(), dx.data(), tokens * hidden);
  }

  /// Views into the tape of the last forward pass. \throws kokomo::Error 207 for a tape without one
  Saved saved(Tape<Exec> const& tape) const {
    detail::require(tape.tokens() >= 0 && tape.tokens() <= m_shape.tokens, 207, "the tape holds ", tape.tokens(),
                    " tokens, expected a forward pass of this layer");
    detail::Arena arena(tape.data());
    return lay_out(arena, tape.tokens());
  }

private:
  using ForwardScratch = detail::SoftMoeScratch<Experts, T, Exec>;
  using BackwardScratch = detail::SoftMoeBackwardScratch<Experts, T, Exec>;

  detail::Sequences sequences(offset_t tokens) const { return {tokens, m_policies.tokens_per_sequence}; }
  Sizes expert_sizes(offset_t tokens) const {
    Sizes sizes;
    sizes.tokens = tokens;
    sizes.hidden = sizes.router_width = m_shape.hidden;
    sizes.weighted = sizes.experts = static_cast<index_t>(m_shape.experts);
    sizes.columns = static_cast<index_t>(slots());
    sizes.per_token = slots();
    sizes.entries = sequences(tokens).count() * slots();
    return sizes;
  }
  template <class S> Matrix<S, Exec> slot_matrix(detail::Arena& arena, offset_t tokens) const {
    return arena.matrix<S, Exec>(sequences(tokens).count() * slots(), m_shape.hidden);
  }

  Parameters parameters(Allocator<Exec> const& allocate) const {
    Parameters p;
    bool const gain = m_policies.norm == SlotNorm::gain;
    allocate(p.slots, "kokomo::SoftMoe::slots", slots(), m_shape.hidden);
    if (!gain) allocate(p.scale, "kokomo::SoftMoe::scale", 1);
    if (gain) allocate(p.norm, "kokomo::SoftMoe::norm", m_shape.hidden);
    if (gain) allocate(p.slot_norm, "kokomo::SoftMoe::slot_norm", m_shape.hidden);
    p.experts = detail::make<decltype(p.experts)>(allocate, m_policies.experts, expert_sizes(m_shape.tokens));
    return p;
  }
  Saved lay_out(detail::Arena& arena, offset_t tokens) const {
    offset_t const hidden = m_shape.hidden;
    using C = Compute; // a braced list is evaluated from left to right
    return Saved{detail::SlotOrder<Exec>(arena, sequences(tokens), static_cast<index_t>(m_shape.experts), slots()),
                 arena.matrix<C, Exec>(tokens, hidden),
                 arena.matrix<C, Exec>(slots(), hidden),
                 arena.matrix<C, Exec>(tokens, slots()),
                 arena.matrix<C, Exec>(tokens, slots()),
                 arena.matrix<C, Exec>(tokens, slots()),
                 slot_matrix<T>(arena, tokens),
                 slot_matrix<C>(arena, tokens),
                 detail::make<saved_t<Experts, T, Exec>>(arena, m_policies.experts, expert_sizes(tokens))};
  }

  void check_call(Parameters const& parameters, Inputs const& inputs, Workspace<Exec> const& workspace,
                  std::size_t needed) const {
    using detail::require;
    require(inputs.x.extent(0) <= m_shape.tokens, 201, "x has ", inputs.x.extent(0),
            " tokens, expected at most shape.tokens = ", m_shape.tokens);
    (void)token_mask(inputs, inputs.x.extent(0));
    detail::check_extents("parameters", parameters, m_parameter_extents);
    require(!detail::runs_on_host_v<Exec> || workspace.workers() >= 1, 205, "the workspace has room for ",
            workspace.workers(), " workers, expected at least 1 (Plan::workers)");
    require(needed <= workspace.bytes(), 205, "the workspace has ", workspace.bytes(), " bytes, expected at least ",
            needed, " (SoftMoe::plan)");
  }
  static detail::MemoryRanges memory_of(Parameters const& parameters, Inputs const& inputs) {
    detail::MemoryRanges ranges;
    ranges.add("x", inputs.x).add("inputs.token_mask", inputs.token_mask);
    return ranges.add_views("parameters.", parameters);
  }
  static Vector<index_t const, Exec> token_mask(Inputs const& inputs, offset_t tokens) {
    return inputs.token_mask.given() ? inputs.token_mask.checked("inputs.token_mask", {tokens})
                                     : Vector<index_t const, Exec>();
  }

  static constexpr float padding = 1; // in place of x: a row of zeros may have no norm

  static Matrix<T const, Exec> without_padding(Exec const& exec, Matrix<T const, Exec> const& rows,
                                               Vector<index_t const, Exec> const& mask, float replacement,
                                               Matrix<T, Exec> const& copy) {
    if (mask.data() == nullptr) return rows;
    detail::for_each(exec, "kokomo::SoftMoe::padding", offset_t(rows.extent(0)),
                     detail::ReplacePadding<T, Exec>{rows, mask, T(replacement), copy});
    return copy;
  }

  /// Both normalisations are a root mean square norm: with a gain, or divided by sqrt(H).
  template <class Weight> detail::RmsNormSettings<Compute> norm_settings(Weight const& weight) const {
    auto const width = double(m_shape.hidden);
    bool const gain = m_policies.norm == SlotNorm::gain;
    return {Compute(double(m_policies.epsilon) / width), 0, Compute(gain ? 1.0 : 1.0 / std::sqrt(width)),
            weight.data()};
  }
  /// What slots are mixtures of, as rows.
  template <class F> void with_mixed(Matrix<T const, Exec> const& x, Saved const& saved, F const& f) const {
    if (m_policies.norm == SlotNorm::unit)
      f(detail::RowSource<T, Compute>{x.data(), m_shape.hidden});
    else
      f(rows_of(saved.normalized));
  }
  ExpertRows<T, Exec> expert_rows(Saved const& saved, detail::WorkerScratch const& workers) const {
    return {{saved.slot_in.data(), m_shape.hidden, saved.order.slot_of_row.data()}, saved.order.by_expert(), workers};
  }
  static detail::RowSource<Compute, Compute> rows_of(Matrix<Compute, Exec> const& matrix) {
    return {matrix.data(), static_cast<offset_t>(matrix.extent(1))};
  }
  /// [sequences][slots, hidden] as the weights of a grouped product that sums over hidden.
  template <class S> detail::WeightRef<S> of_slots(Matrix<S, Exec> const& matrix) const {
    return {matrix.data(), slots() * m_shape.hidden, m_shape.hidden, 1};
  }
  template <class S> static detail::WeightRef<S const> constant(detail::WeightRef<S> const& weight) { return weight; }

  Shape m_shape;
  Policies m_policies;
  detail::Extents m_parameter_extents;
};

} // namespace kokomo::inline v0

#endif
