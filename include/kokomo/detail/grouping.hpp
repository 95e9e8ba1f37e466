// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_GROUPING_HPP
#define KOKOMO_DETAIL_GROUPING_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/detail/cuda/grouping.hpp>
#include <kokomo/detail/launch.hpp>

namespace kokomo::inline v0::detail {

/// Tokens that one thread counts and places. Many small blocks feed a device, few suffice for a host's threads.
inline constexpr offset_t grouping_block = 64;

inline offset_t grouping_blocks(offset_t tokens) {
  return (tokens + grouping_block - 1) / grouping_block;
}

/// Each block counts its executed entries by expert.
template <class T, class Exec> struct CountBlock {
  Assignment<T, Exec> a;
  Matrix<index_t, Exec> counts; // [blocks, experts]

  KOKKOS_FUNCTION void operator()(offset_t block) const {
    for (index_t e = 0; e < a.experts; ++e) counts(block, e) = 0;
    offset_t const last = Kokkos::min(a.tokens, (block + 1) * grouping_block);
    for (offset_t i = a.token_offsets[block * grouping_block]; i < a.token_offsets[last]; ++i)
      if (a.row[i] != none) ++counts(block, a.expert[i]);
  }
};

/// Within an expert, each block starts where the blocks before it end.
template <class T, class Exec> struct ScanBlocks {
  Assignment<T, Exec> a;
  Matrix<index_t, Exec> counts;

  KOKKOS_FUNCTION void operator()(offset_t e) const {
    index_t sum = 0;
    for (std::size_t block = 0; block < counts.extent(0); ++block) {
      index_t const count = counts(block, e);
      counts(block, e) = sum;
      sum += count;
    }
    a.expert_offsets[e + 1] = sum;
  }
};

template <class T, class Exec> struct ScanExperts {
  Assignment<T, Exec> a;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    a.expert_offsets[0] = 0;
    for (index_t e = 0; e < a.experts; ++e) a.expert_offsets[e + 1] += a.expert_offsets[e];
  }
};

template <class T, class Exec> struct PlaceBlock {
  Assignment<T, Exec> a;
  Matrix<index_t, Exec> cursor;

  KOKKOS_FUNCTION void operator()(offset_t block) const {
    offset_t const last = Kokkos::min(a.tokens, (block + 1) * grouping_block);
    for (offset_t token = block * grouping_block; token < last; ++token)
      for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
        if (a.row[i] == none) continue;
        index_t const e = a.expert[i];
        auto const row = static_cast<index_t>(a.expert_offsets[e] + cursor(block, e)++);
        a.row[i] = row;
        a.entry_of_row[row] = static_cast<index_t>(i);
        a.token_of_row[row] = static_cast<index_t>(token);
        a.expert_of_row[row] = e;
        a.weight_of_row[row] = a.weight[i];
      }
  }
};

/// Groups the executed entries by expert: a stable counting sort, O(entries + blocks * experts), without atomics, the
/// same order for any number of threads. `counts` is scratch of [grouping_blocks(tokens), experts].
template <class T, class Exec>
void group_by_expert(Exec const& exec, Assignment<T, Exec> const& a, Matrix<index_t, Exec> const& counts) {
  offset_t const blocks = grouping_blocks(a.tokens);
  if constexpr (runs_on_host_v<Exec>) {
    for_each(exec, "kokomo::Grouping::count", blocks, CountBlock<T, Exec>{a, counts});
    for_each(exec, "kokomo::Grouping::scan_blocks", a.experts, ScanBlocks<T, Exec>{a, counts});
    for_each(exec, "kokomo::Grouping::scan_experts", 1, ScanExperts<T, Exec>{a});
    for_each(exec, "kokomo::Grouping::place", blocks, PlaceBlock<T, Exec>{a, counts});
  } else {
    offset_t const size = grouping_block;
    for_each(exec, "kokomo::Grouping::count", blocks * a.experts, cuda::CountExpert<T, Exec>{a, counts, size});
    for_each(exec, "kokomo::Grouping::scan_blocks", a.experts, cuda::ScanBlocks<T, Exec>{a, counts});
    for_each(exec, "kokomo::Grouping::scan_experts", 1, cuda::ScanExperts<T, Exec>{a});
    for_each(exec, "kokomo::Grouping::place", blocks * a.experts, cuda::PlaceExpert<T, Exec>{a, counts, size});
  }
}

} // namespace kokomo::inline v0::detail

#endif
