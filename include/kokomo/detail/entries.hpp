// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_ENTRIES_HPP
#define KOKOMO_DETAIL_ENTRIES_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/detail/grouping.hpp>

namespace kokomo::inline v0::detail {

// Entries of a varying number a token. `chosen.count(token)` says how many, `chosen.enter(token, first)` writes them from
// entry `first` on and returns the one behind the last.

template <class Chosen, class T, class Exec> struct CountEntries {
  Chosen chosen;
  offset_t tokens;
  Vector<offset_t, Exec> counts; // [blocks]

  KOKKOS_FUNCTION void operator()(offset_t block) const {
    offset_t count = 0;
    for (offset_t t = block * grouping_block; t < Kokkos::min(tokens, (block + 1) * grouping_block); ++t)
      count += chosen.count(t);
    counts[block] = count;
  }
};

/// Counts become the entry at which a block begins.
template <class T, class Exec> struct ScanEntries {
  Assignment<T, Exec> a;
  Vector<offset_t, Exec> counts;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    offset_t sum = 0;
    for (std::size_t block = 0; block < counts.extent(0); ++block) {
      offset_t const count = counts[block];
      counts[block] = sum;
      sum += count;
    }
    a.token_offsets[a.tokens] = sum;
  }
};

template <class Chosen, class T, class Exec> struct PlaceEntries {
  Chosen chosen;
  Assignment<T, Exec> a;
  Vector<offset_t, Exec> counts;

  KOKKOS_FUNCTION void operator()(offset_t block) const {
    offset_t entry = counts[block];
    for (offset_t t = block * grouping_block; t < Kokkos::min(a.tokens, (block + 1) * grouping_block); ++t) {
      a.token_offsets[t] = entry;
      entry = chosen.enter(t, entry);
    }
  }
};

/// Writes token_offsets and the entries, in token order, in three launches over blocks of tokens: Kokkos::parallel_scan
/// would be one, and would allocate. `counts` is scratch of [grouping_blocks(tokens)].
template <class T, class Exec, class Chosen>
void enter_in_token_order(Exec const& exec, char const* label, Chosen const& chosen, Assignment<T, Exec> const& a,
                          Vector<offset_t, Exec> const& counts) {
  offset_t const blocks = grouping_blocks(a.tokens);
  for_each(exec, label, blocks, CountEntries<Chosen, T, Exec>{chosen, a.tokens, counts});
  auto const used = Vector<offset_t, Exec>(counts.data(), std::size_t(blocks));
  for_each(exec, label, 1, ScanEntries<T, Exec>{a, used});
  for_each(exec, label, blocks, PlaceEntries<Chosen, T, Exec>{chosen, a, used});
}

} // namespace kokomo::inline v0::detail

#endif
