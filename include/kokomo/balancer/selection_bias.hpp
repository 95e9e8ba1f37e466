// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_SELECTION_BIAS_HPP
#define KOKOMO_BALANCER_SELECTION_BIAS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {

/// phi in the update b_e += u_n phi(L_e - c_e), with c_e the entries that chose expert e and L_e those that should have.
enum class BiasUpdate {
  sign,         ///< sign(L - c): DeepSeek-V3, Megatron. Drifts: the sum of b is not conserved
  proportional, ///< (L - c) / L: conserves the sum of b
  clipped,      ///< the same within [-limit, limit]
  share         ///< (L - c) / (all entries): LongCat
};

/// u_n, the size of the n-th step, n = 1, 2, ...
enum class BiasSchedule {
  constant,    ///< rate
  inverse,     ///< rate / n
  inverse_sqrt ///< rate / sqrt(n)
};

namespace detail {

template <class T, class Exec> struct CountChoices {
  Assignment<T, Exec> a;
  Vector<offset_t, Exec> counts;
  KOKKOS_FUNCTION void operator()(offset_t e) const { counts[e] += a.expert_offsets[e + 1] - a.expert_offsets[e]; }
};

template <class C, class Exec> struct UpdateBias {
  Vector<C, Exec> bias;
  Vector<offset_t, Exec> counts;
  Vector<offset_t, Exec> steps; // [1], or empty
  BiasUpdate update;
  BiasSchedule schedule;
  C rate, limit, share;
  index_t balanced; // experts [0, balanced) have a bias that moves
  offset_t stop_after;
  bool recenter;

  /// One thread: the mean must be known before any count is reset, and experts are few.
  KOKKOS_FUNCTION void operator()(offset_t) const {
    auto const experts = static_cast<index_t>(counts.extent(0));
    offset_t total = 0;
    for (index_t e = 0; e < experts; ++e) total += counts[e];
    C const target = C(total) * share / C(balanced);
    C const size = step_size(total > 0);
    for (index_t e = 0; e < balanced; ++e)
      bias[e] += total > 0 ? size * phi(target - C(counts[e]), target, total) : C(0);
    if (recenter) {
      C sum = 0;
      for (index_t e = 0; e < experts; ++e) sum += bias[e];
      for (index_t e = 0; e < experts; ++e) bias[e] -= sum / C(experts);
    }
    for (index_t e = 0; e < experts; ++e) counts[e] = 0;
  }
  /// Counts the step, if anything was counted.
  KOKKOS_FUNCTION C step_size(bool counted) const {
    if (steps.extent(0) == 0) return rate;
    if (counted) ++steps[0];
    C const n = C(Kokkos::max(steps[0], offset_t(1)));
    if (stop_after > 0 && steps[0] > stop_after) return C(0);
    return schedule == BiasSchedule::inverse        ? rate / n
           : schedule == BiasSchedule::inverse_sqrt ? rate / Kokkos::sqrt(n)
                                                    : rate;
  }
  KOKKOS_FUNCTION C phi(C missing, C target, offset_t total) const {
    switch (update) {
    case BiasUpdate::proportional:
      return missing / target;
    case BiasUpdate::clipped:
      return Kokkos::max(-limit, Kokkos::min(limit, missing / target));
    case BiasUpdate::share:
      return missing / C(total);
    default:
      return C((missing > C(0)) - (missing < C(0)));
    }
  }
};

} // namespace detail

/// Loss-free balancing: a bias an expert that is added to what selection ranks and never to a weight.
///
/// In training every forward adds its counts (of the biased selection, before capacity drops), and Layer::step, called
/// once an optimiser step, moves the biases: b_e += u_n phi(L_e - c_e). In inference the biases are just used. L is the
/// mean count; or, with `real_share`, the budget: that share of all entries, spread evenly over the experts with weights,
/// while those without keep their bias. The differences of b then balance and their common part holds the budget.
/// `skip` forgets the counts of a step that the optimiser skipped.
/// State: `bias` [experts] in float32 (float64 for a double layer), `counts` [experts] since the last step, `steps` [1]
/// if a schedule or `stop_after` needs it.
/// Source: loss-free balancing (arXiv 2408.15664), DeepSeek-V3 (sign, rate 1e-3), LongCat-Flash (share, real_share).
/// \throws kokomo::Error 106 for settings out of range
struct SelectionBias {
  float rate = 1e-3f; ///< >= 0
  BiasUpdate update = BiasUpdate::sign;
  BiasSchedule schedule = BiasSchedule::constant;
  float limit = 1;         ///< of BiasUpdate::clipped, > 0
  offset_t stop_after = 0; ///< > 0: the biases stay after so many steps
  bool recenter = false;   ///< b -= mean of b after each step
  float real_share = 0;    ///< > 0: entries that shall go to experts with weights, of all; 0: all experts alike

  template <class T, class Exec> struct State {
    OwnedVector<compute_t<T>, Exec> bias;
    OwnedVector<offset_t, Exec> counts, steps;
    index_t weighted = 0;

    State() = default;
    State(Allocator<Exec> const& allocate, SelectionBias const& policy, Sizes const& sizes) : weighted(sizes.weighted) {
      allocate(bias, "kokomo::SelectionBias::bias", sizes.experts);
      allocate(counts, "kokomo::SelectionBias::counts", sizes.experts);
      if (policy.schedule != BiasSchedule::constant || policy.stop_after > 0)
        allocate(steps, "kokomo::SelectionBias::steps", 1);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "bias"}, bias);
      f(Name{prefix, "counts"}, counts);
      if (steps.extent(0) > 0) f(Name{prefix, "steps"}, steps);
    }
  };

  bool moves_bias() const { return rate > 0; }
  void check(Sizes const& sizes) const {
    detail::require(rate >= 0, 106, "SelectionBias rate = ", rate, ", expected >= 0");
    detail::require(limit > 0, 106, "SelectionBias limit = ", limit, ", expected > 0");
    detail::require(stop_after >= 0, 106, "SelectionBias stop_after = ", stop_after, ", expected >= 0");
    detail::require(real_share >= 0 && real_share <= 1, 106, "SelectionBias real_share = ", real_share,
                    ", expected 0 to 1");
    detail::require(real_share == 0 || sizes.weighted < sizes.experts, 106, "SelectionBias real_share = ", real_share,
                    ", expected 0: all experts of this layer have weights");
    detail::require(real_share == 0 || !recenter, 106, "SelectionBias real_share = ", real_share,
                    " with recenter, expected one of them: the common part of the biases holds the budget");
  }

  template <class T, class Exec> Vector<compute_t<T> const, Exec> bias(State<T, Exec> const& state) const {
    return state.bias;
  }
  template <class T, class Exec, class Saved>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
               State<T, Exec> const& state, Saved const&, Vector<compute_t<T>, Exec> const&) const {
    if (routing.mode == Mode::training)
      detail::for_each(exec, "kokomo::SelectionBias::observe", a.experts,
                       detail::CountChoices<T, Exec>{a, state.counts});
  }
  template <class T, class Exec> void step(Exec const& exec, State<T, Exec> const& state) const {
    using C = compute_t<T>;
    bool const budget = real_share > 0;
    index_t const balanced = budget ? state.weighted : index_t(state.bias.extent(0));
    detail::for_each(exec, "kokomo::SelectionBias::step", 1,
                     detail::UpdateBias<C, Exec>{state.bias, state.counts, state.steps, update, schedule, C(rate),
                                                 C(limit), budget ? C(real_share) : C(1), balanced, stop_after,
                                                 recenter});
  }
  /// Instead of `step` after an optimiser step that was skipped: what was counted is forgotten.
  template <class T, class Exec> void skip(Exec const& exec, State<T, Exec> const& state) const {
    detail::fill(exec, "kokomo::SelectionBias::skip", state.counts.data(), offset_t(state.counts.extent(0)), 0);
  }
};

/// LongCat-Flash's: `real_picks` of `k` entries a token shall be experts with weights.
constexpr SelectionBias longcat_bias(float rate, float real_picks, int k) {
  return {.rate = rate, .update = BiasUpdate::share, .real_share = real_picks / float(k)};
}

} // namespace kokomo::inline v0

#endif
