// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_PAIR_TOP_K_HPP
#define KOKOMO_ROUTER_PAIR_TOP_K_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/key_pairs.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/ranking.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// The `most` best of values[0, n), best first, in one pass: what does not beat the last of the list costs one comparison.
template <class C>
KOKKOS_FUNCTION index_t best_of(C const* values, index_t n, index_t most, C* best_values, index_t* best) {
  index_t count = 0;
  for (index_t i = 0; i < n; ++i) {
    C const value = rankable(values[i]);
    if (count == most && !(value > best_values[count - 1])) continue; // a later index loses ties
    index_t at = count < most ? count++ : count - 1;
    for (; at > 0 && value > best_values[at - 1]; --at) best_values[at] = best_values[at - 1], best[at] = best[at - 1];
    best_values[at] = value, best[at] = i;
  }
  return count;
}

template <class T, class Exec> struct SelectPairs {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  KeyPairs pairs;
  int k;
  index_t half;              // best keys of each half
  Matrix<C, Exec> values;    // [tokens heads, 2 half] best values of first, then of second keys
  Matrix<index_t, Exec> ids; // [tokens heads, 3 half] their indices; then, of each first key, its next second key

  KOKKOS_FUNCTION void operator()(offset_t index) const {
    offset_t const token = index / pairs.heads;
    auto const head = int(index % pairs.heads);
    offset_t const begin = index * k;
    if (head == 0) a.token_offsets[token] = begin;
    if (token == a.tokens) return;
    if (routing.masked(token)) {
      for (int j = 0; j < k; ++j) a.choose(begin + j, none);
      return;
    }
    C const* const z = routing.row(token);
    C *const first_values = &values(index, 0), *const second_values = first_values + half;
    index_t *const first = &ids(index, 0), *const second = first + half, *const next = second + half;
    index_t const firsts = best_of(z + pairs.first(head, 0), pairs.rows, half, first_values, first);
    index_t const seconds = best_of(z + pairs.second(head, 0), pairs.columns, half, second_values, second);
    for (index_t i = 0; i < firsts; ++i) next[i] = 0;
    // Sums fall along each row and column of the half x half candidates, so the next best is the front of some row, and
    // rows behind an untouched one are not in reach yet.
    for (int j = 0; j < k; ++j) {
      Rank<C> best{C(0), none};
      index_t row = none;
      for (index_t i = 0; i < firsts; ++i) {
        if (next[i] < seconds) {
          Rank<C> const front{rankable(first_values[i] + second_values[next[i]]),
                              first[i] * pairs.columns + second[next[i]]};
          if (best.index == none || front.before(best)) best = front, row = i;
        }
        if (next[i] == 0) break;
      }
      if (row != none) ++next[row];
      a.choose(begin + j, row != none && routing.selectable(best.index) ? best.index : none);
    }
  }
};

} // namespace detail

/// For each head of a token, the k best of all pairs of keys by the sum of their logits, without ever looking at all of
/// them: the best k keys of each half hold them, so 2 sqrt(E) + k^2 numbers are read of E experts.
///
/// Best first; ties go to the smaller expert index, where equal sums come from equal logits. Two heads of a token may choose
/// the same expert, which then computes two entries. `.best_of_half` bounds the keys of a half below k, as PEER-pytorch's
/// `product_key_topk` does: no longer exact then. Needs the logits of KeyScorer or GridScorer.
/// Source: Lample et al. 2019 (arXiv:1907.05242); PEER (arXiv:2407.04153); OmniMoE (arXiv:2602.05711).
/// \throws kokomo::Error 101 for heads or rows that are not the scorer's, 102 for k or best_of_half out of range
struct PairTopK {
  using Logits = logits::key_pairs;

  int k = 2;            ///< experts a head
  int heads = 1;        ///< as the scorer has it
  index_t rows = 0;     ///< as the scorer has it, 0: a square
  int best_of_half = 0; ///< keys of each half that are paired, 0: k

  template <class T, class Exec> struct Scratch {
    Matrix<compute_t<T>, Exec> values;
    Matrix<index_t, Exec> ids;

    Scratch(detail::Arena& arena, PairTopK const& policy, Sizes const& sizes)
        : values(arena.matrix<compute_t<T>, Exec>(sizes.tokens * policy.heads, 2 * policy.half())),
          ids(arena.matrix<index_t, Exec>(sizes.tokens * policy.heads, 3 * policy.half())) {}
  };

  offset_t entries_per_token(Sizes const&) const { return offset_t(heads) * k; }
  void check(Sizes const& sizes) const {
    pairs(sizes).check("PairTopK", sizes);
    detail::require(k >= 1 && k <= sizes.experts, 102, "PairTopK k = ", k, ", expected 1 to ", sizes.experts);
    auto const grid = pairs(sizes);
    offset_t const candidates = offset_t(Kokkos::min(half(), grid.rows)) * Kokkos::min(half(), grid.columns);
    detail::require(best_of_half >= 0 && candidates >= k, 102, "PairTopK best_of_half = ", best_of_half,
                    ", expected 0, or keys whose pairs suffice for k = ", k);
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    detail::for_each(
        exec, "kokomo::PairTopK::select", a.tokens * heads + 1,
        detail::SelectPairs<T, Exec>{routing, a, pairs(routing.sizes), k, half(), scratch.values, scratch.ids});
  }

private:
  index_t half() const { return best_of_half > 0 ? best_of_half : k; }
  detail::KeyPairs pairs(Sizes const& sizes) const { return detail::KeyPairs::of(heads, rows, sizes.experts); }
};

} // namespace kokomo::inline v0

#endif
