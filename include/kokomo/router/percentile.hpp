// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_PERCENTILE_HPP
#define KOKOMO_ROUTER_PERCENTILE_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/best_first.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {

/// Whose logits a percentile is taken of.
enum class PercentileScope {
  token, ///< the token's own: a constant number of experts, top-k in disguise
  batch, ///< all tokens' and experts'
  expert ///< the expert's, over all tokens
};

namespace detail {

/// Thresholds, one a token, expert or batch: the percentile of the values in scope, between its neighbours linear.
template <PercentileScope Scope, class T, class Exec> struct PercentileThreshold {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  VaryingScratch<T, Exec> scratch; // its memory holds the values in scope
  Vector<C, Exec> thresholds;
  C tau;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const tokens = routing.sizes.tokens, experts = routing.sizes.experts;
    bool const by_token = Scope == PercentileScope::token, by_expert = Scope == PercentileScope::expert;
    offset_t const first_token = by_token ? i : 0, last_token = by_token ? i + 1 : tokens;
    offset_t const first_expert = by_expert ? i : 0, last_expert = by_expert ? i + 1 : experts;
    offset_t const at = by_token ? i * experts : by_expert ? i * tokens : 0;
    C* const values = scratch.ranks.data() + at;
    index_t n = 0;
    for (offset_t t = first_token; t < last_token; ++t) {
      if (routing.masked(t)) continue;
      for (offset_t e = first_expert; e < last_expert; ++e) {
        C const value = routing.logits(t, e);
        if (routing.selectable(index_t(e)) && Kokkos::isfinite(value)) values[n++] = value;
      }
    }
    thresholds[i] = n == 0 ? Kokkos::Experimental::infinity_v<C> : percentile(values, scratch.order.data() + at, n);
  }
  KOKKOS_FUNCTION C percentile(C const* values, index_t* order, index_t n) const {
    C const position = tau * C(n - 1);
    auto const lower = Kokkos::min(index_t(position), n - 1);
    BestFirst<C> descending(values, order, n);
    C above = values[descending.best()], below = above;
    for (index_t place = n - 1; place >= lower; --place) { // `place` in ascending order
      above = below, below = values[descending.best()];
      descending.pop();
    }
    return below + (position - C(lower)) * (above - below);
  }
};

template <PercentileScope Scope, class T, class Exec> struct SelectAbove {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  VaryingScratch<T, Exec> scratch;
  Vector<C const, Exec> thresholds;
  index_t at_least, at_most;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    index_t count = 0;
    if (!routing.masked(token)) {
      index_t const n = routing.sizes.experts;
      C* const above = &scratch.ranks(token, 0);
      for (index_t e = 0; e < n; ++e) {
        C const threshold = thresholds[Scope == PercentileScope::token    ? token
                                       : Scope == PercentileScope::expert ? offset_t(e)
                                                                          : 0];
        above[e] = routing.selectable(e) ? rankable(routing.logits(token, e) - threshold)
                                         : -Kokkos::Experimental::infinity_v<C>;
      }
      BestFirst<C> experts(above, &scratch.order(token, 0), n);
      for (; count < at_most && !experts.empty(); ++count) {
        if (!routing.selectable(experts.best()) || (count >= at_least && !(above[experts.best()] > C(0)))) break;
        experts.pop();
      }
    }
    scratch.counts[token] = count;
  }
};

} // namespace detail

/// Every expert whose logit is above a percentile of the logits of its token, of the batch, or of the expert itself.
///
/// Experts with the largest distance above come first. Over a token's own logits a percentile takes the same number of
/// experts from every token; only the other two scopes are dynamic, and both let later tokens of the batch decide.
/// Source: DynaMoE (arXiv:2603.01697), partly reconstructed: known are a percentile of router logits as a token's
/// threshold, and between one and a layer's most experts. Scope, strictness and interpolation are our reading.
/// \throws kokomo::Error 102 for bounds outside 1 <= at_least <= at_most <= experts, 106 unless 0 <= tau <= 1
template <PercentileScope Scope = PercentileScope::batch> struct Percentile {
  static constexpr bool causal = Scope == PercentileScope::token;

  float tau = 0.5f; ///< share of the logits in scope that lies below
  int at_least = 1; ///< experts a token
  int at_most = 0;  ///< experts a token, 0: all; bounds the memory

  template <class T, class Exec> struct Scratch : detail::VaryingScratch<T, Exec> {
    Vector<compute_t<T>, Exec> thresholds;

    Scratch(detail::Arena& arena, Percentile const& policy, Sizes const& sizes)
        : detail::VaryingScratch<T, Exec>(arena, policy, sizes),
          thresholds(arena.vector<compute_t<T>, Exec>(scopes(sizes))) {}
  };

  offset_t entries_per_token(Sizes const& sizes) const { return detail::bounded(at_most, sizes); }
  void check(Sizes const& sizes) const {
    detail::check_bounds("Percentile", at_least, at_most, sizes);
    detail::require(tau >= 0 && tau <= 1, 106, "Percentile tau = ", tau, ", expected 0 to 1");
    detail::require(sizes.tokens * sizes.experts <= 1073741823, 105, "Percentile of ", sizes.tokens, " tokens times ",
                    sizes.experts, " experts, expected at most 2^30 - 1 logits");
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    detail::for_each(
        exec, "kokomo::Percentile::threshold", scopes(routing.sizes),
        detail::PercentileThreshold<Scope, T, Exec>{routing, scratch, scratch.thresholds, compute_t<T>(tau)});
    detail::for_each(exec, "kokomo::Percentile::select", a.tokens,
                     detail::SelectAbove<Scope, T, Exec>{routing, scratch, scratch.thresholds, at_least,
                                                         detail::bounded(at_most, routing.sizes)});
    detail::enter_varying<T, Exec>(exec, "kokomo::Percentile::enter", a, scratch);
  }

private:
  static offset_t scopes(Sizes const& sizes) {
    return Scope == PercentileScope::token ? sizes.tokens : Scope == PercentileScope::expert ? sizes.experts : 1;
  }
};

} // namespace kokomo::inline v0

#endif
