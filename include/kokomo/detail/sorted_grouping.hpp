// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_SORTED_GROUPING_HPP
#define KOKOMO_DETAIL_SORTED_GROUPING_HPP

#include <kokomo/detail/grouping.hpp>

namespace kokomo::inline v0::detail {

/// Experts up to which a batch is grouped by one count an expert and block. Beyond, by a stable radix sort of the expert
/// ids, whose memory does not grow with tokens times experts.
inline constexpr index_t counted_experts = 4096;

inline constexpr int digit_bits = 11;
inline constexpr index_t digits = 1 << digit_bits;
inline constexpr offset_t most_sort_blocks = 256;

inline int digit_passes(index_t experts) {
  int passes = 1;
  while ((offset_t(experts) - 1) >> (passes * digit_bits) > 0) ++passes;
  return passes;
}

/// Memory to group a batch with, whichever way.
template <class Exec> struct GroupingScratch {
  Matrix<index_t, Exec> counts; ///< [blocks, experts], or [blocks, digits]
  Vector<index_t, Exec> order;  ///< [entries] of the sort
  Vector<offset_t, Exec> first; ///< [digits + 1] where a digit begins; last: executed entries

  GroupingScratch(Arena& arena, Sizes const& sizes) {
    bool const sorts = sizes.experts > counted_experts;
    offset_t const blocks = grouping_blocks(sizes.tokens);
    counts = arena.matrix<index_t, Exec>(sorts ? Kokkos::min(blocks, most_sort_blocks) : blocks,
                                         sorts ? digits : sizes.experts);
    order = arena.vector<index_t, Exec>(sorts ? sizes.entries : 0);
    first = arena.vector<offset_t, Exec>(sorts ? digits + 1 : 0);
  }
};

/// One pass of the sort: executed entries from `from` (null: in token order) to `to`, by one digit of their expert.
template <class T, class Exec> struct DigitPass {
  Assignment<T, Exec> a;
  GroupingScratch<Exec> scratch;
  index_t const* from;
  index_t* to;
  int shift;

  KOKKOS_FUNCTION index_t digit(index_t entry) const { return (a.expert[entry] >> shift) & (digits - 1); }
  /// Calls f(entry) for the entries of a block, in order.
  template <class F> KOKKOS_FUNCTION void visit(offset_t block, F const& f) const {
    offset_t const count = from != nullptr ? scratch.first[offset_t(digits)] : a.token_offsets[a.tokens];
    auto const blocks = offset_t(scratch.counts.extent(0));
    for (offset_t i = count * block / blocks; i < count * (block + 1) / blocks; ++i) {
      index_t const entry = from != nullptr ? from[i] : index_t(i);
      if (a.row[entry] != none) f(entry);
    }
  }
};

template <class T, class Exec> struct CountDigits {
  DigitPass<T, Exec> pass;
  struct Add {
    DigitPass<T, Exec> const& pass;
    index_t* counts;
    KOKKOS_FUNCTION void operator()(index_t entry) const { ++counts[pass.digit(entry)]; }
  };

  KOKKOS_FUNCTION void operator()(offset_t block) const {
    index_t* const counts = &pass.scratch.counts(block, 0);
    for (index_t d = 0; d < digits; ++d) counts[d] = 0;
    pass.visit(block, Add{pass, counts});
  }
};

/// Within a digit, each block starts where the blocks before it end; `first[d + 1]` becomes the digit's size.
template <class Exec> struct ScanDigitBlocks {
  GroupingScratch<Exec> scratch;

  KOKKOS_FUNCTION void operator()(offset_t d) const {
    index_t sum = 0;
    for (std::size_t block = 0; block < scratch.counts.extent(0); ++block) {
      index_t const count = scratch.counts(block, d);
      scratch.counts(block, d) = sum;
      sum += count;
    }
    scratch.first[d + 1] = sum;
  }
};

template <class Exec> struct ScanDigits {
  GroupingScratch<Exec> scratch;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    scratch.first[0] = 0;
    for (index_t d = 0; d < digits; ++d) scratch.first[d + 1] += scratch.first[d];
  }
};

template <class T, class Exec> struct PlaceByDigit {
  DigitPass<T, Exec> pass;
  struct Place {
    DigitPass<T, Exec> const& pass;
    index_t* cursor;
    KOKKOS_FUNCTION void operator()(index_t entry) const {
      index_t const d = pass.digit(entry);
      pass.to[pass.scratch.first[d] + cursor[d]++] = entry;
    }
  };

  KOKKOS_FUNCTION void operator()(offset_t block) const {
    pass.visit(block, Place{pass, &pass.scratch.counts(block, 0)});
  }
};

/// Rows from the sorted entries; the expert offsets are written by the rows at which an expert begins.
template <class T, class Exec> struct EnterSorted {
  Assignment<T, Exec> a;
  offset_t const* executed;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (row > *executed) return;
    bool const last = row == *executed;
    index_t const expert = last ? a.experts : a.expert[a.entry_of_row[row]];
    index_t const previous = row == 0 ? none : a.expert[a.entry_of_row[row - 1]];
    for (index_t e = previous + 1; e <= expert; ++e) a.expert_offsets[e] = row;
    if (last) return;
    index_t const entry = a.entry_of_row[row];
    a.row[entry] = index_t(row);
    a.expert_of_row[row] = expert;
    a.weight_of_row[row] = a.weight[entry];
  }
};

template <class T, class Exec> struct EnterTokens {
  Assignment<T, Exec> a;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      if (a.row[i] != none) a.token_of_row[a.row[i]] = index_t(token);
  }
};

/// Groups the executed entries by expert, in the order that `group_by_expert` of one count an expert gives, in
/// O(passes (entries + blocks digits) + experts).
template <class T, class Exec>
void sort_by_expert(Exec const& exec, Assignment<T, Exec> const& a, GroupingScratch<Exec> const& scratch) {
  int const passes = digit_passes(a.experts);
  auto const blocks = offset_t(scratch.counts.extent(0));
  if (blocks == 0) { // no tokens: no block counts anything
    fill(exec, "kokomo::Grouping::enter_sorted", a.expert_offsets.data(), offset_t(a.experts) + 1, 0);
    return;
  }
  index_t const* from = nullptr;
  for (int p = 0; p < passes; ++p) {
    index_t* const to = (passes - p) % 2 == 1 ? a.entry_of_row.data() : scratch.order.data();
    DigitPass<T, Exec> const pass{a, scratch, from, to, p * digit_bits};
    for_each(exec, "kokomo::Grouping::count_digits", blocks, CountDigits<T, Exec>{pass});
    for_each(exec, "kokomo::Grouping::scan_digit_blocks", digits, ScanDigitBlocks<Exec>{scratch});
    for_each(exec, "kokomo::Grouping::scan_digits", 1, ScanDigits<Exec>{scratch});
    for_each(exec, "kokomo::Grouping::place_by_digit", blocks, PlaceByDigit<T, Exec>{pass});
    from = to;
  }
  for_each(exec, "kokomo::Grouping::enter_sorted", a.entries() + 1,
           EnterSorted<T, Exec>{a, scratch.first.data() + digits});
  for_each(exec, "kokomo::Grouping::enter_tokens", a.tokens, EnterTokens<T, Exec>{a});
}

/// Groups the executed entries by expert, stable, without atomics, the same for any number of threads.
template <class T, class Exec>
void group_by_expert(Exec const& exec, Assignment<T, Exec> const& a, GroupingScratch<Exec> const& scratch) {
  if (a.experts > counted_experts)
    sort_by_expert(exec, a, scratch);
  else
    group_by_expert(exec, a, scratch.counts);
}

} // namespace kokomo::inline v0::detail

#endif
