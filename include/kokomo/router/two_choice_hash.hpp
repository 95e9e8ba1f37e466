// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_TWO_CHOICE_HASH_HPP
#define KOKOMO_ROUTER_TWO_CHOICE_HASH_HPP

#include <kokomo/detail/random.hpp>
#include <kokomo/router/hash.hpp>

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

namespace kokomo::inline v0 {
namespace detail {

/// An expert for an id, the same on every platform.
KOKKOS_INLINE_FUNCTION index_t hashed_expert(std::uint64_t seed, std::uint64_t which, offset_t id, index_t experts) {
  return Kokkos::min(index_t(uniform(seed, which, id, 0) * experts), experts - 1);
}

/// One after the other: a token's choice depends on the loads that those before it left.
template <class T, class Exec> struct SelectTwoChoice {
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  Vector<offset_t const, Exec> token_ids;
  Vector<index_t, Exec> loads; // [experts]
  std::uint64_t seed;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    index_t const n = routing.sizes.experts;
    for (index_t e = 0; e < n; ++e) loads[e] = 0;
    for (offset_t token = 0; token < a.tokens; ++token) {
      a.token_offsets[token] = token;
      index_t chosen = none;
      if (!routing.masked(token)) {
        index_t const first = hashed_expert(seed, 0, token_ids[token], n);
        index_t second = hashed_expert(seed, 1, token_ids[token], n);
        if (second == first) second = (first + 1) % n;
        bool const first_may = routing.selectable(first), second_may = routing.selectable(second);
        if (first_may || second_may) {
          chosen = !first_may || (second_may && loads[second] < loads[first]) ? second : first;
          ++loads[chosen];
        }
      }
      a.choose(token, chosen);
    }
    a.token_offsets[a.tokens] = a.tokens;
  }
};

} // namespace detail

/// Two experts a token id, by two hash functions, and a token takes the one that fewer tokens of the batch took so far.
///
/// Any id is known. Independent of x, and of later tokens; not of the order of the batch. The fuller expert holds log log E
/// tokens above the mean rather than log E / log log E. One thread walks through the tokens.
/// Source: the two candidates of DualMap (arXiv:2602.06502), without its affinity and its service level.
/// \throws kokomo::Error 203 where the ids are missing
struct TwoChoiceHash {
  std::uint64_t seed = 0;

  template <class T, class Exec> using Inputs = HashTable::Inputs<T, Exec>;
  template <class T, class Exec> struct Scratch {
    Vector<index_t, Exec> loads; // [experts]

    Scratch(detail::Arena& arena, TwoChoiceHash const&, Sizes const& sizes)
        : loads(arena.vector<index_t, Exec>(sizes.experts)) {}
  };

  offset_t entries_per_token(Sizes const&) const { return 1; }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    (void)inputs.token_ids.checked("inputs.selector.token_ids", {sizes.tokens});
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Inputs<T, Exec> const& inputs,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    auto const ids = inputs.token_ids.checked("inputs.selector.token_ids", {a.tokens});
    detail::for_each(exec, "kokomo::TwoChoiceHash::select", 1,
                     detail::SelectTwoChoice<T, Exec>{routing, a, ids, scratch.loads, seed});
  }
};

/// Tables for HashTable, on the host. A random one: each entry independently one of `experts`.
inline std::vector<index_t> random_hash_table(offset_t vocabulary, index_t experts, std::uint64_t seed = 0) {
  std::vector<index_t> table;
  for (offset_t id = 0; id < vocabulary; ++id) table.push_back(detail::hashed_expert(seed, 0, id, experts));
  return table;
}

/// One balanced by frequency: the most frequent ids first, each to the expert with the least so far, ties to the smaller.
/// No expert is above the mean by more than the frequency of one id.
inline std::vector<index_t> balanced_hash_table(std::vector<double> const& frequencies, index_t experts) {
  std::vector<std::size_t> ids(frequencies.size());
  for (std::size_t id = 0; id < ids.size(); ++id) ids[id] = id;
  std::stable_sort(ids.begin(), ids.end(),
                   [&](std::size_t a, std::size_t b) { return frequencies[a] > frequencies[b]; });
  using Load = std::pair<double, index_t>;
  std::priority_queue<Load, std::vector<Load>, std::greater<>> lightest;
  for (index_t e = 0; e < experts; ++e) lightest.push({0, e});
  std::vector<index_t> table(frequencies.size());
  for (std::size_t const id : ids) {
    Load load = lightest.top();
    lightest.pop();
    table[id] = load.second;
    load.first += frequencies[id];
    lightest.push(load);
  }
  return table;
}

} // namespace kokomo::inline v0

#endif
