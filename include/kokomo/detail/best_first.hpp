// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_BEST_FIRST_HPP
#define KOKOMO_DETAIL_BEST_FIRST_HPP

#include <kokomo/detail/entries.hpp>
#include <kokomo/detail/ranking.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0::detail {

/// The indices of values[0, n), best first, one at a time: a binary heap in `order` [n], O(n) to build and O(log n) a
/// pop. Ties go to the smaller index; values must not be NaN. The j-th popped index stays at order[n - 1 - j].
template <class C> class BestFirst {
public:
  KOKKOS_FUNCTION BestFirst(C const* values, index_t* order, index_t n) : m_values(values), m_order(order), m_left(n) {
    for (index_t i = 0; i < n; ++i) order[i] = i;
    for (index_t i = n / 2; i-- > 0;) sink(i);
  }

  KOKKOS_FUNCTION bool empty() const { return m_left == 0; }
  KOKKOS_FUNCTION index_t best() const { return m_order[0]; }
  KOKKOS_FUNCTION void pop() {
    index_t const top = m_order[0];
    m_order[0] = m_order[--m_left];
    m_order[m_left] = top;
    sink(0);
  }

private:
  KOKKOS_FUNCTION bool before(index_t a, index_t b) const {
    return Rank<C>{m_values[a], a}.before(Rank<C>{m_values[b], b});
  }
  KOKKOS_FUNCTION void sink(index_t at) const {
    for (offset_t child = 2 * at + 1; child < m_left; at = child, child = 2 * at + 1) {
      if (child + 1 < m_left && before(m_order[child + 1], m_order[child])) ++child;
      if (!before(m_order[child], m_order[at])) return;
      index_t const lower = m_order[at];
      m_order[at] = m_order[child];
      m_order[child] = lower;
    }
  }

  C const* m_values;
  index_t* m_order;
  index_t m_left;
};

/// What a selector needs that takes a varying number of experts a token.
template <class T, class Exec> struct VaryingScratch {
  Matrix<compute_t<T>, Exec> ranks; ///< [tokens, experts] what is compared
  Matrix<index_t, Exec> order;      ///< [tokens, experts] of BestFirst
  Vector<index_t, Exec> counts;     ///< [tokens] how many of them the token takes
  Vector<offset_t, Exec> blocks;    ///< of enter_in_token_order

  template <class Selector>
  VaryingScratch(Arena& arena, Selector const&, Sizes const& sizes)
      : ranks(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.experts)),
        order(arena.matrix<index_t, Exec>(sizes.tokens, sizes.experts)),
        counts(arena.vector<index_t, Exec>(sizes.tokens)),
        blocks(arena.vector<offset_t, Exec>(grouping_blocks(sizes.tokens))) {}
};

template <class T, class Exec> struct BestFirstEntries {
  Assignment<T, Exec> a;
  Matrix<index_t, Exec> order;
  Vector<index_t, Exec> counts;

  KOKKOS_FUNCTION offset_t count(offset_t token) const { return counts[token]; }
  KOKKOS_FUNCTION offset_t enter(offset_t token, offset_t entry) const {
    for (index_t j = 0; j < counts[token]; ++j) a.choose(entry++, order(token, a.experts - 1 - j));
    return entry;
  }
};

/// Writes what `scratch` says of each token as entries, best first.
template <class T, class Exec>
void enter_varying(Exec const& exec, char const* label, Assignment<T, Exec> const& a,
                   VaryingScratch<T, Exec> const& scratch) {
  enter_in_token_order(exec, label, BestFirstEntries<T, Exec>{a, scratch.order, scratch.counts}, a, scratch.blocks);
}

/// A setting `at_most` that bounds experts a token, 0: all of them.
inline index_t bounded(int at_most, Sizes const& sizes) {
  return at_most == 0 ? sizes.experts : Kokkos::min<index_t>(at_most, sizes.experts);
}

/// \throws kokomo::Error 102
inline void check_bounds(char const* policy, int at_least, int at_most, Sizes const& sizes) {
  require(at_least >= 1 && at_least <= sizes.experts, 102, policy, " at_least = ", at_least, ", expected 1 to ",
          sizes.experts, " (the routed experts)");
  require(at_most == 0 || (at_most >= at_least && at_most <= sizes.experts), 102, policy, " at_most = ", at_most,
          ", expected 0 (all), or ", at_least, " to ", sizes.experts);
}

} // namespace kokomo::inline v0::detail

#endif
