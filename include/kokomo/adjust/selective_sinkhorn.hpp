// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ADJUST_SELECTIVE_SINKHORN_HPP
#define KOKOMO_ADJUST_SELECTIVE_SINKHORN_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/random.hpp>
#include <kokomo/detail/sinkhorn.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {

/// What a token gains from an expert in a transport plan.
enum class SinkhornCost {
  linear, ///< the logit
  softmax ///< the softmax of the logits
};

namespace detail {

template <class T, class Exec> struct TransportScores {
  using C = compute_t<T>;
  Matrix<C, Exec> logits, scores;
  SinkhornCost cost;
  C regularization;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    auto const n = static_cast<index_t>(scores.extent(1));
    C const* const z = &logits(token, 0);
    auto const row = SoftmaxScore::row(z, n);
    for (index_t e = 0; e < n; ++e)
      scores(token, e) =
          finite_score((cost == SinkhornCost::linear ? z[e] : SoftmaxScore::value(row, z[e])) / regularization);
  }
};

/// Logits whose softmax is the plan's row.
template <class T, class Exec> struct LogitsOfPlan {
  Routing<T, Exec> routing;
  SinkhornPlan<compute_t<T>, Exec> plan;
  Matrix<compute_t<T>, Exec> logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (routing.masked(token)) return;
    for (index_t e = 0; e < routing.sizes.experts; ++e) logits(token, e) = finite_score(plan.log_plan(token, e));
  }
};

/// No gradient through the plan. Further columns of a scorer (NoisyScorer) keep theirs.
template <class C, class Exec> struct DetachPlan {
  Matrix<C, Exec> d;
  index_t experts;
  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (index_t e = 0; e < experts; ++e) d(token, e) = 0;
  }
};

/// d_scores to d_logits, in place.
template <class C, class Exec> struct TransportScoresGradient {
  Matrix<C, Exec> scores; // softmax / regularization, where that is the cost
  Matrix<C, Exec> d;
  SinkhornCost cost;
  C regularization;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C along = 0;
    for (std::size_t e = 0; e < scores.extent(1); ++e) along += scores(token, e) * d(token, e);
    for (std::size_t e = 0; e < scores.extent(1); ++e)
      d(token, e) = cost == SinkhornCost::linear
                        ? d(token, e) / regularization
                        : scores(token, e) * (d(token, e) - along * regularization); // s = scores * regularization
  }
};

} // namespace detail

/// Selective Sinkhorn Routing: on a share p of the training steps the logits become those of a balanced transport plan,
///
///     max <P, C> - xi <P, log P>,   P 1 = 1,   P^T 1 = T / E,      logits = log P
///
/// with C the logits or their softmax; on all others, and in inference, they stay as they are. A top-k selector then takes
/// the k largest entries of P, and a softmax gate normalised over the chosen weighs by them: softmax(log P) is P's row.
/// Whether a step is one is drawn from (seed, step, layer) alone, so that a repeated forward agrees.
///
/// `detach` (as the third-party implementation does) lets no gradient through the plan; without it, backward is that of
/// the converged plan. Not causal. Source: the paper's formulas as third parties quote them
/// (docs/policies/adjust/selective_sinkhorn.md).
/// \throws kokomo::Error 106 unless 0 <= probability <= 1, regularization > 0, iterations >= 1, tolerance >= 0
struct SelectiveSinkhorn {
  using slot = slots::adjust;
  static constexpr bool causal = false;
  bool causal_in(Mode mode) const { return mode == Mode::inference; }

  double probability = 1e-3; ///< of a step with the plan, 0 .. 1
  SinkhornCost cost = SinkhornCost::linear;
  float regularization = 0.5f; ///< xi > 0
  int iterations = 100;        ///< >= 1, at most
  float tolerance = 1e-4f;     ///< >= 0, of the column sums, relative
  bool detach = true;
  std::uint64_t seed = 0;
  index_t layer = 0; ///< distinguishes the layers of a model

  template <class T, class Exec> struct Saved {
    detail::SinkhornPlan<compute_t<T>, Exec> plan;
    Vector<compute_t<T>, Exec> row, column; ///< for backward

    Saved(detail::Arena& arena, SelectiveSinkhorn const& policy, Sizes const& sizes)
        : plan(arena, sizes.tokens, sizes.experts),
          row(arena.vector<compute_t<T>, Exec>(policy.detach ? 0 : sizes.tokens)),
          column(arena.vector<compute_t<T>, Exec>(policy.detach ? 0 : sizes.experts)) {}
  };

  void check(Sizes const&) const {
    detail::require(probability >= 0 && probability <= 1, 106, "SelectiveSinkhorn probability = ", probability,
                    ", expected 0 .. 1");
    detail::require(regularization > 0, 106, "SelectiveSinkhorn regularization = ", regularization, ", expected > 0");
    detail::require(iterations >= 1, 106, "SelectiveSinkhorn iterations = ", iterations, ", expected >= 1");
    detail::require(tolerance >= 0, 106, "SelectiveSinkhorn tolerance = ", tolerance, ", expected >= 0");
  }

  /// Whether a call is routed by the plan.
  bool uses_plan(Mode mode, std::uint64_t step) const {
    return mode == Mode::training && detail::uniform(seed, step, layer, 0) < probability;
  }

  template <class T, class Exec>
  void adjust(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved) const {
    using C = compute_t<T>;
    if (!uses_plan(routing.mode, routing.step)) return;
    detail::for_each(exec, "kokomo::SelectiveSinkhorn::scores", routing.sizes.tokens,
                     detail::TransportScores<T, Exec>{logits, saved.plan.scores, cost, C(regularization)});
    detail::equal_marginals(exec, routing, saved.plan, false);
    detail::sinkhorn<C, Exec>(
        exec, saved.plan,
        {iterations, C(tolerance), -Kokkos::Experimental::infinity_v<C>, detail::SinkhornStop::marginals}, true);
    detail::for_each(exec, "kokomo::SelectiveSinkhorn::logits", routing.sizes.tokens,
                     detail::LogitsOfPlan<T, Exec>{routing, saved.plan, logits});
  }

  template <class T, class Exec>
  void adjust_backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&,
                       Nothing const&, Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits,
                       Nothing const&, Write) const {
    using C = compute_t<T>;
    if (!uses_plan(routing.mode, routing.step)) return;
    if (detach)
      return detail::for_each(exec, "kokomo::SelectiveSinkhorn::detach", routing.sizes.tokens,
                              detail::DetachPlan<C, Exec>{d_logits, routing.sizes.experts});
    detail::sinkhorn_backward(exec, saved.plan, d_logits, saved.row, saved.column, iterations, C(tolerance));
    detail::for_each(exec, "kokomo::SelectiveSinkhorn::backward", routing.sizes.tokens,
                     detail::TransportScoresGradient<C, Exec>{saved.plan.scores, d_logits, cost, C(regularization)});
  }
};

} // namespace kokomo::inline v0

#endif
