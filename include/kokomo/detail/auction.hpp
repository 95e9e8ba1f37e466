// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_AUCTION_HPP
#define KOKOMO_DETAIL_AUCTION_HPP

#include <kokomo/detail/arena.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/routing.hpp>

namespace kokomo::inline v0::detail {

template <class C> struct AuctionSettings {
  C accuracy; // epsilon as a share of the scores' range
  C minimum_epsilon;
  offset_t rounds; // at most so many bids a token
};

/// What an auction of experts' places works on, and what it finds.
template <class C, class Exec> struct AuctionMemory {
  Matrix<C, Exec> scores;        // [tokens, experts], finite
  Matrix<C, Exec> range;         // [tokens, 2] least and largest score
  Vector<index_t, Exec> expert;  // [tokens] out: the token's expert, or none
  Vector<C, Exec> price;         // [experts] out: what a place costs
  Vector<C, Exec> epsilon;       // [1] out
  Matrix<C, Exec> of_class;      // [experts, 2] price of the common places and of the extra one
  Vector<index_t, Exec> filled;  // [experts] common places taken
  Vector<index_t, Exec> begin;   // [experts] where they stand
  Vector<C, Exec> bid;           // [tokens] of the common places: a heap an expert
  Vector<index_t, Exec> holder;  // [tokens] of the same
  Vector<index_t, Exec> extra;   // [experts] holder of the extra place
  Vector<index_t, Exec> waiting; // [tokens] a stack

  AuctionMemory(Arena& arena, offset_t tokens, index_t experts)
      : scores(arena.matrix<C, Exec>(tokens, experts)), range(arena.matrix<C, Exec>(tokens, 2)),
        expert(arena.vector<index_t, Exec>(tokens)), price(arena.vector<C, Exec>(experts)),
        epsilon(arena.vector<C, Exec>(1)), of_class(arena.matrix<C, Exec>(experts, 2)),
        filled(arena.vector<index_t, Exec>(experts)), begin(arena.vector<index_t, Exec>(experts)),
        bid(arena.vector<C, Exec>(tokens)), holder(arena.vector<index_t, Exec>(tokens)),
        extra(arena.vector<index_t, Exec>(experts)), waiting(arena.vector<index_t, Exec>(tokens)) {}
};

/// Finite scores and their range, over the experts that no mask excludes. What is not finite becomes the token's least
/// finite score, +infinity its largest.
template <class T, class Exec> struct PrepareAuction {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  AuctionMemory<C, Exec> m;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const* const z = routing.row(token);
    C low = Kokkos::Experimental::infinity_v<C>, high = -low;
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      if (routing.selectable(e) && Kokkos::isfinite(z[e])) low = Kokkos::min(low, z[e]), high = Kokkos::max(high, z[e]);
    if (!(low <= high)) low = high = 0;
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      m.scores(token, e) = !routing.selectable(e) ? low : Kokkos::isfinite(z[e]) ? z[e] : z[e] > C(0) ? high : low;
    m.range(token, 0) = low;
    m.range(token, 1) = high;
    m.expert[token] = none;
  }
};

/// Bertsekas' auction for places of several kinds that are alike within a kind (Bertsekas and Castanon 1989), one bid at a
/// time. Every expert offers floor(n / E) common places and, where n is no multiple of E, an extra one. A token without a
/// place bids for the expert of the best value = score - price, as much as makes it epsilon worse than the second best;
/// it takes the cheapest place of that expert, whose holder waits again. Common places begin cheaper by more than the
/// scores' range, so that none of them stays empty and loads differ by at most one.
///
/// Every bid raises a price by at least epsilon, so it ends; the sum of the scores is then within n epsilon of the largest.
/// After `rounds` bids a token the rest is placed greedily.
template <class T, class Exec> struct RunAuction {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  AuctionMemory<C, Exec> m;
  AuctionSettings<C> settings;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    offset_t n = 0, sellers = 0;
    C low = Kokkos::Experimental::infinity_v<C>, high = -low;
    index_t const experts = routing.sizes.experts;
    for (offset_t t = routing.sizes.tokens; t-- > 0;) { // the first token bids first
      if (routing.masked(t)) continue;
      low = Kokkos::min(low, m.range(t, 0)), high = Kokkos::max(high, m.range(t, 1));
      m.waiting[n++] = static_cast<index_t>(t);
    }
    for (index_t e = 0; e < experts; ++e) sellers += routing.selectable(e) ? 1 : 0;
    if (n == 0 || sellers == 0) return;
    C const epsilon = Kokkos::max((high - low) * settings.accuracy, settings.minimum_epsilon);
    offset_t const common = n / sellers;
    bool const extra = n % sellers != 0;
    constexpr C never = Kokkos::Experimental::infinity_v<C>;
    m.epsilon[0] = epsilon;
    offset_t places = 0;
    for (index_t e = 0; e < experts; ++e) {
      bool const sells = routing.selectable(e);
      m.of_class(e, 0) = sells && common > 0 ? (extra ? low - high - C(2) * epsilon : C(0)) : never;
      m.of_class(e, 1) = sells && extra ? C(0) : never;
      m.price[e] = Kokkos::min(m.of_class(e, 0), m.of_class(e, 1));
      m.filled[e] = 0;
      m.extra[e] = none;
      m.begin[e] = static_cast<index_t>(places);
      places += sells ? common : 0;
    }

    offset_t waiting = n;
    for (offset_t bids = 0; waiting > 0 && bids < settings.rounds * n; ++bids) {
      index_t const token = m.waiting[--waiting];
      index_t const evicted = bid(token, common, epsilon);
      if (evicted != none) m.waiting[waiting++] = evicted;
    }
    while (waiting > 0) place_greedily(m.waiting[--waiting], common);
    for (index_t e = 0; e < experts; ++e) {
      for (offset_t i = 0; i < m.filled[e]; ++i) m.expert[m.holder[m.begin[e] + i]] = e;
      if (m.extra[e] != none) m.expert[m.extra[e]] = e;
    }
  }

private:
  /// Returns who lost its place, or none.
  KOKKOS_FUNCTION index_t bid(index_t token, offset_t common, C epsilon) const {
    C const* const score = &m.scores(token, 0);
    C const* const price = m.price.data();
    constexpr C worst = -Kokkos::Experimental::infinity_v<C>;
    index_t best = 0;
    C value = worst, second = worst;
    for (index_t e = 0; e < routing.sizes.experts; ++e) {
      C const v = score[e] - price[e];
      if (v > value)
        second = value, value = v, best = e;
      else if (v > second)
        second = v;
    }
    C const* const kinds = &m.of_class(best, 0);
    int const kind = kinds[1] < kinds[0] ? 1 : 0;
    second = Kokkos::max(second, score[best] - kinds[1 - kind]);
    C const raised = kinds[kind] + (second > worst ? value - second : C(0)) + epsilon;
    index_t const evicted = kind == 0 ? take_common(best, token, raised, common) : take_extra(best, token, raised);
    m.price[best] = Kokkos::min(kinds[0], kinds[1]);
    return evicted;
  }

  KOKKOS_FUNCTION index_t take_extra(index_t e, index_t token, C offer) const {
    index_t const evicted = m.extra[e];
    m.extra[e] = token;
    m.of_class(e, 1) = offer;
    return evicted;
  }

  /// The expert's common places are a heap with the lowest offer first.
  KOKKOS_FUNCTION index_t take_common(index_t e, index_t token, C offer, offset_t places) const {
    C* const bids = m.bid.data() + m.begin[e];
    index_t* const holders = m.holder.data() + m.begin[e];
    index_t evicted = none;
    if (m.filled[e] < places) {
      offset_t at = m.filled[e]++;
      for (; at > 0 && offer < bids[(at - 1) / 2]; at = (at - 1) / 2)
        bids[at] = bids[(at - 1) / 2], holders[at] = holders[(at - 1) / 2];
      bids[at] = offer, holders[at] = token;
    } else {
      evicted = holders[0];
      offset_t at = 0;
      for (offset_t child = 1; child < places; at = child, child = 2 * at + 1) {
        if (child + 1 < places && bids[child + 1] < bids[child]) ++child;
        if (!(bids[child] < offer)) break;
        bids[at] = bids[child], holders[at] = holders[child];
      }
      bids[at] = offer, holders[at] = token;
    }
    if (m.filled[e] == places) m.of_class(e, 0) = bids[0];
    return evicted;
  }

  /// The best score among experts with a common place left, then among those with an extra one.
  KOKKOS_FUNCTION void place_greedily(index_t token, offset_t common) const {
    index_t best = none;
    for (int kind = 0; kind < 2 && best == none; ++kind) {
      for (index_t e = 0; e < routing.sizes.experts; ++e) {
        if (!routing.selectable(e)) continue;
        bool const open = kind == 0 ? m.filled[e] < common : m.extra[e] == none;
        if (open && (best == none || m.scores(token, e) > m.scores(token, best))) best = e;
      }
      if (best == none) continue;
      if (kind == 0)
        take_common(best, token, m.of_class(best, 0), common);
      else
        m.extra[best] = token;
    }
  }
};

template <class T, class Exec>
void auction(Exec const& exec, Routing<T, Exec> const& routing, AuctionMemory<compute_t<T>, Exec> const& memory,
             AuctionSettings<compute_t<T>> const& settings) {
  for_each(exec, "kokomo::auction::prepare", routing.sizes.tokens, PrepareAuction<T, Exec>{routing, memory});
  for_each(exec, "kokomo::auction::run", 1, RunAuction<T, Exec>{routing, memory, settings});
}

} // namespace kokomo::inline v0::detail

#endif
