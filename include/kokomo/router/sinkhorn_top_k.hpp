// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_SINKHORN_TOP_K_HPP
#define KOKOMO_ROUTER_SINKHORN_TOP_K_HPP

#include <kokomo/detail/sinkhorn.hpp>
#include <kokomo/router/top_k.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct SinkhornScores {
  Routing<T, Exec> routing;
  Matrix<compute_t<T>, Exec> scores;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (index_t e = 0; e < routing.sizes.experts; ++e) scores(token, e) = finite_score(routing.logits(token, e));
  }
};

/// The k largest entries of each row of the plan. The row's own factor is the same for all of them and left out.
template <class T, class Exec> struct SelectFromPlan {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  SinkhornPlan<C, Exec> plan;
  int k;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    offset_t const first = token * k;
    a.token_offsets[token] = first;
    if (token == a.tokens) return;
    C* const ranks = &plan.scores(token, 0);
    for (index_t e = 0; e < routing.sizes.experts; ++e) ranks[e] += plan.column[e]; // -infinity where masked
    auto pick = ahead_of_all<C>();
    for (int j = 0; j < k; ++j) {
      pick = next_best(ranks, routing.sizes.experts, pick);
      a.choose(first + j, !routing.masked(token) && routing.selectable(pick.index) ? pick.index : none);
    }
  }
};

} // namespace detail

/// In training the k largest entries of each row of a balanced plan, in inference plain top-k:
///
///     K = exp(z),   d0 = (1 / T) / (K d1 + epsilon),   d1 = (1 / E) / (K^T d0 + epsilon)
///
/// until the mean change of d1 is below the tolerance; ranked is d0 K d1. Weights come from the logits alone, so no
/// gradient passes through the plan. Computed in log space: the published form overflows for logits above 88.
/// Not causal. Source: NVIDIA/Megatron-LM `sinkhorn` (docs/policies/router/sinkhorn_top_k.md).
/// \throws kokomo::Error 102 unless 1 <= k <= experts, 106 for iterations below one or a negative tolerance or epsilon
struct SinkhornTopK {
  static constexpr bool causal = false;
  bool causal_in(Mode mode) const { return mode == Mode::inference; }
  static constexpr bool balances_itself = true;
  static constexpr bool takes_no_loss = true; // as Megatron-LM asserts

  int k = 1;               ///< experts a token, 1 .. experts
  int iterations = 100;    ///< >= 1, at most so many; the published loop has no bound
  float tolerance = 1e-4f; ///< >= 0
  float epsilon = 1e-8f;   ///< >= 0

  template <class T, class Exec> struct Scratch : detail::SinkhornPlan<compute_t<T>, Exec> {
    Scratch(detail::Arena& arena, SinkhornTopK const&, Sizes const& sizes)
        : detail::SinkhornPlan<compute_t<T>, Exec>(arena, sizes.tokens, sizes.experts) {}
  };

  offset_t entries_per_token(Sizes const&) const { return k; }
  void check(Sizes const& sizes) const {
    detail::check_k(k, sizes);
    detail::require(iterations >= 1, 106, "SinkhornTopK iterations = ", iterations, ", expected >= 1");
    detail::require(tolerance >= 0 && epsilon >= 0, 106, "SinkhornTopK tolerance = ", tolerance,
                    " and epsilon = ", epsilon, ", expected >= 0");
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& plan) const {
    using C = compute_t<T>;
    if (routing.mode == Mode::inference)
      return detail::for_each(exec, "kokomo::SinkhornTopK::select", a.tokens + 1,
                              detail::SelectTopK<GateScore, C, dynamic, T, Exec>{routing, a, plan.scores, k});
    detail::for_each(exec, "kokomo::SinkhornTopK::scores", a.tokens,
                     detail::SinkhornScores<T, Exec>{routing, plan.scores});
    detail::equal_marginals(exec, routing, plan, true);
    detail::sinkhorn<C, Exec>(
        exec, plan, {iterations, C(tolerance), Kokkos::log(C(epsilon)), detail::SinkhornStop::column_scaling});
    detail::for_each(exec, "kokomo::SinkhornTopK::select", a.tokens + 1,
                     detail::SelectFromPlan<T, Exec>{routing, a, plan, k});
  }
};

} // namespace kokomo::inline v0

#endif
