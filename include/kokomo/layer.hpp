// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_LAYER_HPP
#define KOKOMO_LAYER_HPP

#include <kokomo/adjust/no_adjustment.hpp>
#include <kokomo/argument.hpp>
#include <kokomo/assignment.hpp>
#include <kokomo/balancer/no_balancer.hpp>
#include <kokomo/capacity/no_capacity.hpp>
#include <kokomo/check.hpp>
#include <kokomo/combine/weighted_sum.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/aliasing.hpp>
#include <kokomo/detail/layer_kernels.hpp>
#include <kokomo/detail/sorted_grouping.hpp>
#include <kokomo/experts/with_shared.hpp>
#include <kokomo/gate/on_input.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/placement/one_to_one.hpp>
#include <kokomo/router.hpp>
#include <kokomo/router/linear_scorer.hpp>
#include <kokomo/router/top_k.hpp>
#include <kokomo/slots.hpp>
#include <kokomo/space/same_space.hpp>
#include <kokomo/workspace.hpp>

#include <Kokkos_Profiling_ScopedRegion.hpp>

#include <limits>
#include <string>

namespace kokomo::inline v0 {

/// A mixture-of-experts layer, composed from policies:
///
///     router input ─► scorer ─► logits (─► adjust) ─► selector ─► Assignment ─► capacity ─► gate ─► weights
///     x ─► space ─► experts (grouped by expert) ─► combine ─► y
///
/// A layer holds settings only and is re-entrant: weights, gradients, state, workspace and tape are the caller's.
/// `forward`, `backward` and `step` enqueue their work on the execution space instance they are given; they allocate
/// nothing and fence nothing. The same input gives the same bits, for any number of threads.
///
/// \tparam RouterT  Router<Scorer, Selector>: where a token goes
/// \tparam GateT    with what weight
/// \tparam BalancerT what keeps the load even
/// \tparam ExpertsT what is computed there, WithShared<...> for experts that every token visits
/// \tparam T        storage type of experts and activations: float, bfloat16, float16, double
/// \tparam ExecT    Kokkos execution space
/// \tparam SlotPolicies policies of further slots in any order: adjust, capacity, space, combine, placement
template <class RouterT = Router<LinearScorer, TopK<>>, class GateT = SoftmaxGate, class BalancerT = NoBalancer,
          class ExpertsT = SwiGluExperts, class T = float, class ExecT = Kokkos::DefaultExecutionSpace,
          class... SlotPolicies>
class Layer {
public:
  using Router = RouterT;
  using Scorer = typename Router::Scorer;
  using Selector = typename Router::Selector;
  using Gate = GateT;
  using Balancer = BalancerT;
  using Experts = ExpertsT;
  using Routed = detail::routed_t<Experts>;
  using Adjust = slot_t<slots::adjust, NoAdjustment, SlotPolicies...>;
  using Capacity = slot_t<slots::capacity, NoCapacity, SlotPolicies...>;
  using Space = slot_t<slots::space, SameSpace, SlotPolicies...>;
  using Combine = slot_t<slots::combine, WeightedSum, SlotPolicies...>;
  using Placement = slot_t<slots::placement, OneToOne, SlotPolicies...>;
  using Storage = T;
  using Compute = compute_t<T>;
  using Exec = ExecT;

  static constexpr bool has_shared = !std::is_same_v<Routed, Experts>;
  static constexpr bool has_adjust = !std::is_same_v<Adjust, NoAdjustment>;
  static constexpr bool has_capacity = !std::is_same_v<Capacity, NoCapacity>;
  static constexpr bool has_complement = detail::Complements<Scorer, T, Exec>;
  static constexpr bool has_space = !std::is_same_v<Space, SameSpace>;
  static constexpr bool has_placement = !std::is_same_v<Placement, OneToOne>;
  static constexpr bool by_token = detail::ComputesByToken<Routed, T, Exec>;
  static constexpr bool sums_by_choice = requires { requires Placement::sums_by_choice; };
  static constexpr bool reduces_rows = detail::ReducesRows<Combine, T, Exec>;
  static constexpr bool combines_rows = detail::CombinesRows<Routed, T, Exec> && !sums_by_choice && !reduces_rows;
  static constexpr bool combines_gradients =
      detail::CombinesRowGradients<Routed, T, Exec> && !sums_by_choice && !reduces_rows;
  /// Whether backward exists: experts of packed or quantised weights only infer, and want no memory for it.
  static constexpr bool has_gradients =
      detail::ExpertsGradient<Routed, T, Exec> || detail::ByTokenGradient<Routed, T, Exec>;
  static constexpr bool weighs_input = detail::weighs_input<Gate>();
  static constexpr bool weighs_shared = requires { Gate::weighs_shared; };
  /// No token's output depends on later tokens of the batch, whatever the settings. Policies that break this say
  /// `causal = false`; what holds for a layer's settings and one mode says `causal_in`.
  static constexpr bool causal = detail::is_causal<Scorer>() && detail::is_causal<Selector>() &&
                                 detail::is_causal<Gate>() && detail::is_causal<Balancer>() &&
                                 detail::is_causal<Adjust>() && detail::is_causal<Capacity>();

  /// The settings of all policies.
  struct Policies {
    Router router{};
    Gate gate{};
    Balancer balancer{};
    Experts experts{};
    Adjust adjust{};
    Capacity capacity{};
    Space space{};
    Combine combine{};
    Placement placement{};
  };

  /// Learnable weights, as named Views; gradients have the same type.
  struct Parameters {
    parameters_t<Scorer, T, Exec> router;
    parameters_t<Gate, T, Exec> gate;
    parameters_t<Routed, T, Exec> experts;
    std::conditional_t<has_shared, parameters_t<Experts, T, Exec>, Nothing> shared;
    parameters_t<Adjust, T, Exec> adjust;
    parameters_t<Space, T, Exec> space;
    parameters_t<Combine, T, Exec> combine;

    /// Calls f(name, view) for every one: "router.weight", "experts.gate_up", "shared.down", ...
    template <class F> void for_each(F&& f) const {
      router.for_each(f, "router.");
      gate.for_each(f, "gate.");
      experts.for_each(f, "experts.");
      shared.for_each(f, "shared.");
      adjust.for_each(f, "adjust.");
      space.for_each(f, "space.");
      combine.for_each(f, "combine.");
    }
  };

  /// What training changes without a gradient, and tables.
  struct State {
    state_t<Scorer, T, Exec> scorer;
    state_t<Selector, T, Exec> selector;
    state_t<Balancer, T, Exec> balancer;
    state_t<Adjust, T, Exec> adjust;
    state_t<Placement, T, Exec> placement;

    template <class F> void for_each(F&& f) const {
      scorer.for_each(f, "scorer.");
      selector.for_each(f, "selector.");
      balancer.for_each(f, "balancer.");
      adjust.for_each(f, "adjust.");
      placement.for_each(f, "placement.");
    }
  };

  /// What one call brings. Everything but x is optional, unless a policy of the composition reads it.
  struct Inputs {
    MatrixArgument<T const, Exec> x{};                ///< [tokens, hidden]
    MatrixArgument<T const, Exec> router_input{};     ///< [tokens, router_hidden]; not given: x
    VectorArgument<index_t const, Exec> token_mask{}; ///< [tokens], 0: not routed (padding); not given: all are
    inputs_t<Scorer, T, Exec> scorer{};
    inputs_t<Adjust, T, Exec> adjust{};
    inputs_t<Selector, T, Exec> selector{};
    inputs_t<Gate, T, Exec> gate{};
    inputs_t<Capacity, T, Exec> capacity{};
    Mode mode = Mode::inference;
    std::uint64_t step = 0; ///< keys random choices of policies that have any
  };

  /// Gradients of what a call brought. dx is overwritten; so is d_router_input, which must be given if router_input
  /// was.
  struct InputGradients {
    MatrixArgument<T, Exec> x{};
    MatrixArgument<T, Exec> router_input{};
    detail::input_gradients_t<Scorer, T, Exec> scorer{};
  };

  /// What forward leaves in a tape, as Views into it.
  struct Saved {
    Matrix<Compute, Exec> logits; ///< [tokens, columns] what was routed by
    Matrix<Compute, Exec> scored; ///< [tokens, columns] the scorer's, where an adjustment follows; else the same memory
    Assignment<T, Exec> assignment;
    Vector<Compute, Exec> loss;    ///< [1] sum of the balancers' losses, coefficients included
    Vector<Status, Exec> status;   ///< [1]
    Vector<offset_t, Exec> chosen; ///< [1] entries before capacity
    saved_t<Scorer, T, Exec> scorer;
    saved_t<Adjust, T, Exec> adjust;
    saved_t<Gate, T, Exec> gate;
    saved_t<Balancer, T, Exec> balancer;
    saved_t<Space, T, Exec> space;
    saved_t<Routed, T, Exec> experts;
    std::conditional_t<has_shared, saved_t<Experts, T, Exec>, Nothing> shared;
    saved_t<Combine, T, Exec> combine;
    saved_t<Placement, T, Exec> placement;
  };

  /// \throws kokomo::Error 1xx for settings that make no sense; see each policy
  explicit Layer(Shape const& shape, Policies const& policies = {}) : m_shape(shape), m_policies(policies) {
    detail::check_composition<Layer>();
    detail::require(shape.tokens >= 0, 101, "shape.tokens = ", shape.tokens, ", expected >= 0");
    detail::require(shape.hidden >= 1, 101, "shape.hidden = ", shape.hidden, ", expected >= 1");
    detail::require(shape.router_hidden >= 0, 101, "shape.router_hidden = ", shape.router_hidden, ", expected >= 0");
    detail::require(shape.experts >= 1 && shape.experts <= std::numeric_limits<index_t>::max() / 2, 101,
                    "shape.experts = ", shape.experts, ", expected 1 .. 2^30");
    m_sizes = base_sizes();
    detail::check_settings(policies.placement, m_sizes);
    detail::check_settings(policies.experts, placed_sizes(m_sizes)); // first: the number of experts depends on them
    detail::check_settings(policies.router.selector, m_sizes);
    m_sizes.per_token = policies.router.selector.entries_per_token(m_sizes);
    detail::require(detail::BoundsBatch<Selector> ||
                        shape.tokens <= most_entries / Kokkos::max(m_sizes.per_token, offset_t(1)),
                    105, "shape.tokens = ", shape.tokens, " of ", m_sizes.per_token,
                    " entries each, expected at most 2^30 entries");
    m_sizes = sizes_of(shape.tokens);
    detail::require(m_sizes.entries <= most_entries, 105, "a batch has up to ", m_sizes.entries,
                    " entries, expected at most 2^30");
    detail::check_settings(policies.router.scorer, m_sizes);
    detail::check_settings(policies.adjust, m_sizes);
    detail::check_settings(policies.gate, m_sizes);
    detail::check_settings(policies.balancer, m_sizes);
    detail::check_settings(policies.capacity, m_sizes);
    detail::check_settings(policies.space, m_sizes);
    detail::check_settings(policies.combine, m_sizes);
    detail::require(
        !detail::leaves_out_at_zero(policies.router.selector) || !detail::moves_bias(policies.balancer), 103,
        "experts outside the allowed groups rank 0, ahead of those inside whose rank a moving selection bias "
        "makes negative; expected OutsideRank::minus_infinity, or biases that stay (SelectionBias rate = 0)");
    if constexpr (detail::ReadsActivations<Routed>)
      detail::require(policies.router.scorer.width == routed().cached, 101, "experts read activations of width ",
                      routed().cached, ", expected the scorer's: ", policies.router.scorer.width);
    m_parameter_extents = detail::extents_of(parameters(Allocator<Exec>{}));
    m_state_extents = detail::extents_of(state(Allocator<Exec>{}));
  }

  Shape const& shape() const { return m_shape; }
  Policies const& policies() const { return m_policies; }
  Sizes const& sizes() const { return m_sizes; }

  /// Whether, under these settings, no token's output depends on later tokens of a call in this mode. `causal` says so for
  /// all settings and both modes.
  bool causal_in(Mode mode) const {
    return detail::is_causal_in(m_policies.router.scorer, mode) && detail::is_causal_in(m_policies.adjust, mode) &&
           detail::is_causal_in(m_policies.router.selector, mode) && detail::is_causal_in(m_policies.gate, mode) &&
           detail::is_causal_in(m_policies.balancer, mode) && detail::is_causal_in(m_policies.capacity, mode);
  }
  /// For a layer of a decoder, which has no later tokens while it generates.
  /// \throws kokomo::Error 110 unless causal_in(Mode::inference)
  void require_causal_inference() const {
    detail::require(causal_in(Mode::inference), 110,
                    "in inference a token's output depends on later tokens of the call, which a decoder does not have; "
                    "expected policies with a causal form in inference (ExpertChoice inference = "
                    "InferenceChoice::above_threshold)");
  }

  /// Zeroed Views, allocated asynchronously on `exec`.
  Parameters make_parameters(Exec const& exec) const { return parameters(Allocator<Exec>(exec)); }
  State make_state(Exec const& exec) const { return state(Allocator<Exec>(exec)); }
  /// The same Views without memory: names and extents for those who load, save or count.
  Parameters describe_parameters() const { return parameters(Allocator<Exec>{}); }
  State describe_state() const { return state(Allocator<Exec>{}); }

  /// Which kernels the routed experts' forward runs, in words: packed panels or not, instruction set, tiles. The
  /// instruction set is chosen when the program runs. Empty for experts that do not say.
  std::string describe() const {
    if constexpr (detail::DescribesKernels<Routed, T, Exec>)
      return routed().template describe<T, Exec>();
    else
      return {};
  }

  /// Bytes of workspace and tape for up to shape().tokens tokens; host arithmetic only.
  Plan plan(Exec const& exec) const {
    Plan plan;
    plan.workers = detail::product_workers(exec);
    detail::Arena forward, backward, tape;
    (void)ForwardScratch(forward, *this, m_sizes, plan.workers);
    if constexpr (has_gradients) (void)BackwardScratch(backward, *this, m_sizes, plan.workers);
    (void)lay_out(tape, m_sizes);
    plan.workspace_bytes = std::max(forward.used(), backward.used());
    plan.tape_bytes = tape.used();
    return plan;
  }

  /// y = layer(x), for up to shape().tokens tokens. Fills the tape.
  ///
  /// \param[out] y [tokens, hidden], must not overlap an input
  /// \throws kokomo::Error 2xx, 3xx for arguments whose extents, layout or memory do not fit; nothing is changed then
  /// \note asynchronous on exec; allocates nothing, fences nothing
  void forward(Exec const& exec, Parameters const& parameters, State const& state, Inputs const& inputs,
               MatrixArgument<T, Exec> const& y, Workspace<Exec> const& workspace, Tape<Exec>& tape) const;

  /// The two halves of forward, for who must see the choices before experts run, since it brings their weights: the first
  /// writes logits, choices, weights and losses to the tape, the second y, for what the first left there.
  /// \throws kokomo::Error as forward; the second 207 for a tape without the first
  void forward_routing(Exec const& exec, Parameters const& parameters, State const& state, Inputs const& inputs,
                       Workspace<Exec> const& workspace, Tape<Exec>& tape) const;
  void forward_experts(Exec const& exec, Parameters const& parameters, State const& state, Inputs const& inputs,
                       MatrixArgument<T, Exec> const& y, Workspace<Exec> const& workspace,
                       Tape<Exec> const& tape) const;

  /// The same with x alone.
  void forward(Exec const& exec, Parameters const& parameters, State const& state,
               MatrixArgument<T const, Exec> const& x, MatrixArgument<T, Exec> const& y,
               Workspace<Exec> const& workspace, Tape<Exec>& tape) const {
    Inputs inputs;
    inputs.x = x;
    forward(exec, parameters, state, inputs, y, workspace, tape);
  }

  /// Gradients of sum(y * dy) + loss, for the forward pass that the tape holds; inputs and parameters as then.
  ///
  /// \param[out] d_inputs gradients of the inputs, overwritten
  /// \param[in,out] grads gradients of the parameters, overwritten or added to
  /// \throws kokomo::Error 2xx, 3xx as forward; 207 for a tape without a forward pass of as many tokens
  /// \note asynchronous on exec; allocates nothing, fences nothing
  void backward(Exec const& exec, Parameters const& parameters, State const& state, Inputs const& inputs,
                MatrixArgument<T const, Exec> const& dy, InputGradients const& d_inputs, Parameters const& grads,
                Workspace<Exec> const& workspace, Tape<Exec> const& tape, Write write = Write::overwrite) const;

  /// The same with x and dx alone.
  void backward(Exec const& exec, Parameters const& parameters, State const& state,
                MatrixArgument<T const, Exec> const& x, MatrixArgument<T const, Exec> const& dy,
                MatrixArgument<T, Exec> const& dx, Parameters const& grads, Workspace<Exec> const& workspace,
                Tape<Exec> const& tape, Write write = Write::overwrite) const {
    Inputs inputs;
    inputs.x = x;
    InputGradients d_inputs;
    d_inputs.x = dx;
    backward(exec, parameters, state, inputs, dy, d_inputs, grads, workspace, tape, write);
  }

  /// What the balancer does once an optimiser step (loss-free biases). Asynchronous on exec.
  void step(Exec const& exec, State const& state) const {
    if constexpr (detail::Steps<Balancer, T, Exec>) m_policies.balancer.template step<T>(exec, state.balancer);
  }

  /// Views into the tape of the last forward pass: logits, assignment, loss, ...
  /// \throws kokomo::Error 207 for a tape without one, 205 for one that is too small
  Saved saved(Tape<Exec> const& tape) const {
    detail::require(tape.tokens() >= 0 && tape.tokens() <= m_shape.tokens, 207, "the tape holds ", tape.tokens(),
                    " tokens, expected a forward pass of this layer");
    detail::Arena arena(tape.data());
    Saved saved = lay_out(arena, sizes_of(tape.tokens()));
    detail::require(arena.used() <= tape.bytes(), 205, "the tape has ", tape.bytes(), " bytes, expected at least ",
                    arena.used());
    return saved;
  }

  /// What the last forward pass found in its data: the one call that copies back and fences.
  Status status(Exec const& exec, Tape<Exec> const& tape) const {
    Status host;
    Kokkos::View<Status, Kokkos::HostSpace, Kokkos::MemoryUnmanaged> target(&host);
    Kokkos::View<Status, typename Exec::memory_space, Kokkos::MemoryUnmanaged> source(saved(tape).status.data());
    Kokkos::deep_copy(exec, target, source);
    exec.fence("kokomo::Layer::status");
    return host;
  }

private:
  static constexpr offset_t most_entries = std::numeric_limits<index_t>::max() / 2;
  struct ForwardScratch;
  struct BackwardScratch;

  Sizes base_sizes() const {
    Sizes sizes;
    sizes.tokens = m_shape.tokens;
    sizes.hidden = m_shape.hidden;
    sizes.router_width = m_shape.router_hidden > 0 ? m_shape.router_hidden : m_shape.hidden;
    sizes.weighted = static_cast<index_t>(m_shape.experts);
    sizes.experts = routed().routed(sizes.weighted);
    if constexpr (has_shared) sizes.shared = m_policies.experts.count;
    sizes.columns = sizes.experts + (weighs_shared ? sizes.shared : 0);
    if constexpr (detail::CountsColumns<Scorer>) sizes.columns = m_policies.router.scorer.columns(sizes);
    return sizes;
  }
  Sizes sizes_of(offset_t tokens) const {
    Sizes sizes = base_sizes();
    sizes.tokens = tokens;
    sizes.per_token = m_sizes.per_token;
    if constexpr (detail::BoundsBatch<Selector>)
      sizes.entries = m_policies.router.selector.entries(sizes);
    else
      sizes.entries = tokens * sizes.per_token;
    return sizes;
  }
  /// Sizes as the routed experts see them: of those that are stored, in their own space.
  Sizes placed_sizes(Sizes const& sizes) const {
    if constexpr (has_placement) return m_policies.placement.placed(sizes);
    return sizes;
  }
  Sizes expert_sizes(Sizes sizes) const {
    if constexpr (has_space) sizes.hidden = m_policies.space.width(sizes.hidden);
    return placed_sizes(sizes);
  }
  /// What the experts compute: the choices, or where they lie.
  static Assignment<T, Exec> const& executed(Saved const& saved) {
    if constexpr (has_placement)
      return saved.placement.executed;
    else
      return saved.assignment;
  }
  Routed const& routed() const {
    if constexpr (has_shared)
      return m_policies.experts.routed;
    else
      return m_policies.experts;
  }

  Parameters parameters(Allocator<Exec> const& allocate) const;
  State state(Allocator<Exec> const& allocate) const;
  Saved lay_out(detail::Arena& arena, Sizes const& sizes) const;
  inputs_t<Scorer, T, Exec> scorer_inputs(Inputs const& inputs, Mode mode, std::uint64_t step) const {
    auto in = inputs.scorer;
    if constexpr (std::is_base_of_v<CallInfo, decltype(in)>) static_cast<CallInfo&>(in) = {mode, step};
    return in;
  }
  Routing<T, Exec> routing(State const& state, Inputs const& inputs, Saved const& saved, Sizes const& sizes, Mode mode,
                           std::uint64_t step) const;
  static detail::MemoryRanges memory_of(Parameters const& parameters, State const& state, Inputs const& inputs);
  static detail::MemoryRanges written_memory_of(Inputs const& inputs);
  void check_call(Parameters const& parameters, State const& state, Inputs const& inputs, Sizes const& sizes,
                  Workspace<Exec> const& workspace, std::size_t needed) const;
  Sizes check_forward(Parameters const& parameters, State const& state, Inputs const& inputs,
                      MatrixArgument<T, Exec> const* y, Workspace<Exec> const& workspace, Tape<Exec> const& tape) const;
  void route(Exec const& exec, State const& state, Parameters const& parameters, Inputs const& inputs,
             Routing<T, Exec> const& routing, Saved const& saved, ForwardScratch const& scratch) const;
  void run_routing(Exec const& exec, Parameters const& parameters, State const& state, Inputs const& inputs,
                   Saved const& saved, Sizes const& sizes, ForwardScratch const& scratch) const;
  void run_experts(Exec const& exec, Parameters const& parameters, State const& state, Inputs const& inputs,
                   MatrixArgument<T, Exec> const& y, Routing<T, Exec> const& routing, Saved const& saved,
                   ForwardScratch const& scratch) const;
  ExpertRows<T, Exec> expert_rows(Inputs const& inputs, Saved const& saved, Sizes const& sizes,
                                  detail::WorkerScratch const& workers) const;
  Matrix<T const, Exec> router_input(Inputs const& inputs, Sizes const& sizes) const {
    return inputs.router_input.given()
               ? inputs.router_input.checked("inputs.router_input", {sizes.tokens, sizes.router_width})
               : inputs.x.checked("x", {sizes.tokens, sizes.hidden});
  }

  Shape m_shape;
  Policies m_policies;
  Sizes m_sizes;
  detail::Extents m_parameter_extents, m_state_extents;
};

} // namespace kokomo::inline v0

// In this order: the first defines macros that the last takes back.
#include <kokomo/detail/layer_memory.hpp>

#include <kokomo/detail/layer_forward.hpp>

#include <kokomo/detail/layer_backward.hpp>

#endif
