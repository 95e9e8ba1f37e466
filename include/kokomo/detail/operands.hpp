// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_OPERANDS_HPP
#define KOKOMO_DETAIL_OPERANDS_HPP

#include <kokomo/types.hpp>

#include <concepts>
#include <cstddef>

namespace kokomo::inline v0::detail {

/// Rows partitioned into groups: group g owns rows offsets[g] .. offsets[g + 1]. Other rows do not exist, in front of the
/// first group either, where these groups are a part of more. The host knows the number of groups and an upper bound of the rows; the offsets live where Exec can read them.
/// One group of all rows needs no offsets: they may be null when groups == 1.
struct GroupedRows {
  offset_t const* offsets = nullptr;     ///< [groups + 1]
  index_t const* group_of_row = nullptr; ///< [rows used]; what one thread a row needs; may be null when groups == 1
  index_t groups = 0;
  offset_t rows = 0;       ///< upper bound of offsets[groups]
  index_t first_group = 0; ///< what group_of_row calls group 0

  KOKKOS_FUNCTION offset_t begin(index_t group) const { return offsets != nullptr ? offsets[group] : 0; }
  KOKKOS_FUNCTION offset_t end(index_t group) const { return offsets != nullptr ? offsets[group + 1] : rows; }
  KOKKOS_FUNCTION index_t group_of(offset_t row) const {
    return group_of_row != nullptr ? group_of_row[row] - first_group : 0;
  }
  /// Whether the row belongs to a group.
  KOKKOS_FUNCTION bool contains(offset_t row) const { return row >= begin(0) && row < end(groups - 1); }
  /// Rows that belong to a group.
  KOKKOS_FUNCTION offset_t used() const { return end(groups - 1) - begin(0); }
  /// The groups first .. first + count of these, over the same rows.
  GroupedRows part(index_t first, index_t count) const {
    return {offsets != nullptr ? offsets + first : nullptr, group_of_row, count, rows, first_group + first};
  }
};

/// An operand whose row r is `scale[r] * data[index[r] * stride ..]`: gathered and weighted while it is read.
/// A null index means row r itself, a null scale means one.
template <class S, class C> struct RowSource {
  S const* data = nullptr;
  offset_t stride = 0;
  index_t const* index = nullptr;
  C const* scale = nullptr;

  KOKKOS_FUNCTION C operator()(offset_t row, offset_t column) const {
    offset_t const at = index != nullptr ? offset_t(index[row]) : row;
    C const value = static_cast<C>(data[at * stride + column]);
    return scale != nullptr ? scale[row] * value : value;
  }
};

/// One matrix a group, addressed as (n, k) whatever its storage order: out_in, in_out, interleaved or separate.
template <class S> struct WeightRef {
  S* data = nullptr;
  offset_t group_stride = 0;
  offset_t n_stride = 0;
  offset_t k_stride = 0;

  KOKKOS_FUNCTION S& operator()(offset_t group, offset_t n, offset_t k) const {
    return data[group * group_stride + n * n_stride + k * k_stride];
  }
  /// The same matrices with n and k exchanged: what a product with the transpose reads.
  KOKKOS_FUNCTION WeightRef transposed() const { return {data, group_stride, k_stride, n_stride}; }
  /// The same matrices to read only. A template, since nvcc warns of a plain one in WeightRef<S const> itself.
  template <std::same_as<S const> T> KOKKOS_FUNCTION operator WeightRef<T>() const {
    return {data, group_stride, n_stride, k_stride};
  }
};

/// One vector a group (a bias): element n of group g is data[g * group_stride + n * n_stride]. Null: there is none.
template <class S> struct BiasRef {
  S* data = nullptr;
  offset_t group_stride = 0;
  offset_t n_stride = 1;
};

/// Rows that a product writes: row r, column n at data[r * stride + n].
template <class S> struct RowTarget {
  S* data = nullptr;
  offset_t stride = 0;
};

/// Where the rows of experts go: row r is added, `weight_of_row[r]` times (null: once), to row token_of_row[r] of `data`
/// [tokens, width]. Or, not `summed`, row r becomes row r of `data`.
template <class C> struct CombinedRows {
  C* data = nullptr;
  offset_t tokens = 0;
  index_t const* token_of_row = nullptr;
  C const* weight_of_row = nullptr;
  bool summed = true;
  Write write = Write::overwrite; ///< overwrite: what stands in `data` (or in these rows of it) is cleared before
};

/// Memory of the arena for kernels that need some for each worker thread (host only; empty on devices).
struct WorkerScratch {
  std::byte* data = nullptr;
  offset_t bytes_per_worker = 0;
  int workers = 0;
};

} // namespace kokomo::inline v0::detail

#endif
