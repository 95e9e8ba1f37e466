// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_RANKING_HPP
#define KOKOMO_DETAIL_RANKING_HPP

#include <kokomo/routing.hpp>

namespace kokomo::inline v0::detail {

/// Place in a ranking: larger value first, among equals the smaller index.
template <class C> struct Rank {
  C value;
  index_t index;

  KOKKOS_FUNCTION bool before(Rank const& other) const {
    return value > other.value || (value == other.value && index < other.index);
  }
};

template <class C> KOKKOS_FUNCTION Rank<C> ahead_of_all() {
  return {Kokkos::Experimental::infinity_v<C>, none};
}

/// NaN ranks last.
template <class C> KOKKOS_FUNCTION C rankable(C value) {
  return value == value ? value : -Kokkos::Experimental::infinity_v<C>;
}

/// The best of values[0, n) that ranks after `previous`; index `none` if there is no more. Calling it k times yields
/// the k best in order without marking what was taken.
template <class C> KOKKOS_FUNCTION Rank<C> next_best(C const* values, index_t n, Rank<C> const& previous) {
  Rank<C> best{C(0), none};
  for (index_t i = 0; i < n; ++i) {
    Rank<C> const candidate{rankable(values[i]), i};
    if (previous.before(candidate) && (best.index == none || candidate.before(best))) best = candidate;
  }
  return best;
}

/// Calls take(j, index) for the k best of values[0, n), best first: one pass that keeps the best so far in order. Most
/// candidates fail against the last of them, one comparison. More than `most_kept` are looked for one after the other.
/// Requires k <= n.
template <class C, class Take> KOKKOS_FUNCTION void for_each_best(C const* values, index_t n, int k, Take const& take) {
  constexpr int most_kept = 16;
  if (k > most_kept) {
    auto pick = ahead_of_all<C>();
    for (int j = 0; j < k; ++j) take(j, (pick = next_best(values, n, pick)).index);
    return;
  }
  Rank<C> best[most_kept] = {}; // what is read has been set, but g++ does not see it where k is a constant
  int kept = 0;
  for (index_t i = 0; i < n; ++i) {
    C const value = rankable(values[i]);
    if (kept == k && !(value > best[k - 1].value)) continue; // among equals the earlier stays ahead
    int at = kept < k ? kept++ : k - 1;
    for (; at > 0 && value > best[at - 1].value; --at) best[at] = best[at - 1];
    best[at] = {value, i};
  }
  for (int j = 0; j < k; ++j) take(j, best[j].index);
}

/// Writes what selection compares for one token: score (or logit) plus the balancer's bias; -infinity for an expert that
/// the mask excludes.
/// \tparam Rounding storage type that the published code compares in, or the compute type
template <class Score, class Rounding, class T, class Exec>
KOKKOS_FUNCTION void write_ranks(Routing<T, Exec> const& routing, offset_t token, compute_t<T>* ranks) {
  auto const* z = routing.row(token);
  index_t const n = routing.sizes.experts;
  auto const row = Score::row(z, n);
  bool const biased = routing.bias.data() != nullptr;
  for (index_t e = 0; e < n; ++e) {
    auto const score = rounded_to<Rounding>(Score::value(row, z[e]));
    ranks[e] = routing.selectable(e) ? rankable(biased ? score + routing.bias[e] : score)
                                     : -Kokkos::Experimental::infinity_v<compute_t<T>>;
  }
}

} // namespace kokomo::inline v0::detail

#endif
