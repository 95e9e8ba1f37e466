// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_POSITIVE_HPP
#define KOKOMO_ROUTER_POSITIVE_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/best_first.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct SelectPositive {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  VaryingScratch<T, Exec> scratch;
  C threshold;
  index_t at_most;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    index_t count = 0;
    if (!routing.masked(token)) {
      C* const ranks = &scratch.ranks(token, 0);
      write_ranks<IdentityScore, C>(routing, token, ranks);
      BestFirst<C> experts(ranks, &scratch.order(token, 0), routing.sizes.experts);
      for (; count < at_most && !experts.empty() && ranks[experts.best()] > threshold; ++count) experts.pop();
    }
    scratch.counts[token] = count;
  }
};

} // namespace detail

/// Every expert with a positive logit, best first: from none to all of them, and with ReluGate differentiable in
/// the number of experts too, since what is not chosen has weight zero on both sides of the threshold.
///
/// A token without a positive logit has no expert; its routed part is zero. NaN is not positive.
/// Source: ReMoE (arXiv:2412.14711), and thu-ml/ReMoE.
/// \throws kokomo::Error 102 unless at_most is 0 or 1 to experts, 106 for a threshold of NaN
struct Positive {
  float threshold = 0; ///< what z plus selection bias must exceed
  int at_most = 0;     ///< the best so many of them, 0: all; bounds the memory

  template <class T, class Exec> using Scratch = detail::VaryingScratch<T, Exec>;

  offset_t entries_per_token(Sizes const& sizes) const { return detail::bounded(at_most, sizes); }
  void check(Sizes const& sizes) const {
    detail::check_bounds("Positive", 1, at_most, sizes);
    detail::require(threshold == threshold, 106, "Positive threshold = ", threshold, ", expected a number");
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    detail::for_each(exec, "kokomo::Positive::select", a.tokens,
                     detail::SelectPositive<T, Exec>{routing, scratch, compute_t<T>(threshold),
                                                     detail::bounded(at_most, routing.sizes)});
    detail::enter_varying(exec, "kokomo::Positive::enter", a, scratch);
  }
};

} // namespace kokomo::inline v0

#endif
