// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_CUDA_GROUPING_HPP
#define KOKOMO_DETAIL_CUDA_GROUPING_HPP

#include <kokomo/assignment.hpp>

/// Grouping by expert on a device: the counting sort of detail/grouping.hpp, the same rows, by more threads. A thread owns an
/// expert of a block of tokens and reads all of the block's entries, as its neighbours do, the experts beside it: what a
/// warp reads is one address. Counters are registers, and none waits for memory that another one wrote.
namespace kokomo::inline v0::detail::cuda {

/// f(i, token) for the executed entries of `expert` in a block of `size` tokens, in order.
template <class T, class Exec, class F>
KOKKOS_FUNCTION void for_each_entry(Assignment<T, Exec> const& a, offset_t block, offset_t size, index_t expert,
                                    F const& f) {
  offset_t const last = Kokkos::min(a.tokens, (block + 1) * size);
  offset_t begin = a.token_offsets[block * size];
  for (offset_t token = block * size; token < last; ++token) {
    offset_t const end = a.token_offsets[token + 1];
    for (offset_t i = begin; i < end; ++i)
      if (a.expert[i] == expert && a.row[i] != none) f(i, token);
    begin = end;
  }
}

template <class T, class Exec> struct CountExpert {
  Assignment<T, Exec> a;
  Matrix<index_t, Exec> counts; // [blocks, experts]
  offset_t size;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const block = i / a.experts;
    auto const expert = static_cast<index_t>(i % a.experts);
    index_t count = 0;
    for_each_entry(a, block, size, expert, [&](offset_t, offset_t) { ++count; });
    counts(block, expert) = count;
  }
};

/// values(0 .. count) become the sums before them, `ahead` at a time, so that loads do not wait for one another.
/// Returns the sum of all.
template <class C, class Read, class WriteTo>
KOKKOS_FUNCTION C running_sums(offset_t count, Read const& read, WriteTo const& write) {
  constexpr int ahead = 8;
  C sum = 0;
  for (offset_t first = 0; first < count; first += ahead) {
    C values[ahead];
    for (int j = 0; j < ahead; ++j) values[j] = first + j < count ? read(first + j) : C(0);
    for (int j = 0; j < ahead; ++j) {
      if (first + j < count) write(first + j, sum);
      sum += values[j];
    }
  }
  return sum;
}

/// Within an expert, each block starts where the blocks before it end.
template <class T, class Exec> struct ScanBlocks {
  Assignment<T, Exec> a;
  Matrix<index_t, Exec> counts;

  KOKKOS_FUNCTION void operator()(offset_t e) const {
    a.expert_offsets[e + 1] = running_sums<index_t>(
        offset_t(counts.extent(0)), [&](offset_t block) { return counts(block, e); },
        [&](offset_t block, index_t before) { counts(block, e) = before; });
  }
};

/// From rows of each expert, one place up, to offsets.
template <class T, class Exec> struct ScanExperts {
  Assignment<T, Exec> a;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    offset_t const all = running_sums<offset_t>(
        a.experts, [&](offset_t e) { return a.expert_offsets[e + 1]; },
        [&](offset_t e, offset_t before) { a.expert_offsets[e] = before; });
    a.expert_offsets[a.experts] = all;
  }
};

template <class T, class Exec> struct PlaceExpert {
  Assignment<T, Exec> a;
  Matrix<index_t, Exec> before; // [blocks, experts]
  offset_t size;

  KOKKOS_FUNCTION void operator()(offset_t at) const {
    offset_t const block = at / a.experts;
    auto const expert = static_cast<index_t>(at % a.experts);
    offset_t row = a.expert_offsets[expert] + before(block, expert);
    for_each_entry(a, block, size, expert, [&](offset_t i, offset_t token) {
      a.row[i] = static_cast<index_t>(row);
      a.entry_of_row[row] = static_cast<index_t>(i);
      a.token_of_row[row] = static_cast<index_t>(token);
      a.expert_of_row[row] = expert;
      a.weight_of_row[row] = a.weight[i];
      ++row;
    });
  }
};

} // namespace kokomo::inline v0::detail::cuda

#endif
