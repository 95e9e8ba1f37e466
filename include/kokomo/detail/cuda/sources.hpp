// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_CUDA_SOURCES_HPP
#define KOKOMO_DETAIL_CUDA_SOURCES_HPP

#include <kokomo/detail/cuda/fragments.hpp>
#include <kokomo/detail/cuda/tile_map.hpp>
#include <kokomo/detail/operands.hpp>

#include <cstdint>
#include <type_traits>

/// What a tile's operands are copied from, chunk by chunk. All of them have
///
///     inner           which of their indices is contiguous, here and in shared memory
///     vectors         whether every chunk is 16 aligned bytes of T, which copies that nobody waits for can take
///     line(i)         line i of the tile, or beyond: null. The outer index counts from the tile's side, or from depth 0
///     chunk(line, j)  up to eight elements of it from inner index j on; what lies outside is zero in the tile
///     factor(i)       what line i is multiplied by where chunks are not vectors
namespace kokomo::inline v0::detail::cuda {

struct Chunk {
  char const* data;
  offset_t step; ///< in elements
  int valid;     ///< elements, 0 to 8
  bool wide;     ///< float32 elements, to be rounded to T
};

KOKKOS_INLINE_FUNCTION int elements_left(offset_t extent, offset_t at) {
  offset_t const left = extent - at;
  return static_cast<int>(left < 0 ? 0 : left < chunk_elements ? left : chunk_elements);
}

inline bool aligned(void const* data) {
  return reinterpret_cast<std::uintptr_t>(data) % chunk_bytes == 0;
}

/// Rows in storage type T or in float32, gathered by an index.
template <class T> struct RowReader {
  static_assert(sizeof(T) == 2);
  char const* data = nullptr;
  offset_t stride = 0;
  index_t const* index = nullptr;
  float const* scale = nullptr;
  bool wide = false;

  RowReader() = default;
  template <class S>
  explicit RowReader(RowSource<S, float> const& rows)
      : data(reinterpret_cast<char const*>(rows.data)), stride(rows.stride), index(rows.index), scale(rows.scale),
        wide(std::is_same_v<S, float>) {
    static_assert(std::is_same_v<S, float> || std::is_same_v<S, T>);
  }

  bool vectors() const { return !wide && stride % chunk_elements == 0 && aligned(data); }
  KOKKOS_FUNCTION offset_t element_bytes() const { return wide ? 4 : 2; }
  KOKKOS_FUNCTION char const* row(offset_t r) const {
    return data + (index != nullptr ? offset_t(index[r]) : r) * stride * element_bytes();
  }
};

/// Left operand of a product: rows of one tile, over their columns. Their scale is left to whoever has the sums.
template <class T> struct RowsOfTile {
  static constexpr Inner inner = Inner::depth;
  RowReader<T> from;
  RowTile tile;
  offset_t depth;
  bool vectors;

  KOKKOS_FUNCTION char const* line(offset_t i) const { return i < tile.rows ? from.row(tile.first + i) : nullptr; }
  KOKKOS_FUNCTION Chunk chunk(char const* line, offset_t at) const {
    if (line == nullptr) return {from.data, 1, 0, false};
    int const valid = elements_left(depth, at);
    return {valid > 0 ? line + at * from.element_bytes() : from.data, 1, valid, from.wide};
  }
  KOKKOS_FUNCTION float factor(offset_t) const { return 1; }
};

/// Either operand of an outer product: columns `first` and following of the rows of a group, which are its depth.
template <class T> struct ColumnsOfRows {
  static constexpr Inner inner = Inner::side;
  RowReader<T> from;
  offset_t begin, end;     // the group's rows
  offset_t first, columns; // of the tile, of all
  bool vectors;            // not with a scale: that has to be multiplied before rows are summed

  KOKKOS_FUNCTION char const* line(offset_t i) const { return begin + i < end ? from.row(begin + i) : nullptr; }
  KOKKOS_FUNCTION Chunk chunk(char const* line, offset_t at) const {
    if (line == nullptr) return {from.data, 1, 0, false};
    int const valid = elements_left(columns, first + at);
    return {valid > 0 ? line + (first + at) * from.element_bytes() : from.data, 1, valid, from.wide};
  }
  KOKKOS_FUNCTION float factor(offset_t i) const {
    return from.scale != nullptr && begin + i < end ? from.scale[begin + i] : 1.0f;
  }
};

/// The weights of a product, of one matrix or of two of the same form, gate and up.
template <class T> struct WeightReader {
  char const* data = nullptr;
  offset_t second = 0; ///< bytes from the first matrix to the second
  offset_t group_stride = 0, n_stride = 0, k_stride = 0;

  WeightReader() = default;
  explicit WeightReader(WeightRef<T const> const& w) : WeightReader(w, w) {}
  WeightReader(WeightRef<T const> const& a, WeightRef<T const> const& b)
      : data(reinterpret_cast<char const*>(a.data)),
        second(
            static_cast<offset_t>(reinterpret_cast<std::uintptr_t>(b.data) - reinterpret_cast<std::uintptr_t>(a.data))),
        group_stride(a.group_stride), n_stride(a.n_stride), k_stride(a.k_stride) {}

  /// The order of a tile in shared memory. Weights with no contiguous index are copied element by element.
  Inner inner() const { return n_stride == 1 && k_stride != 1 ? Inner::side : Inner::depth; }
  bool vectors() const {
    offset_t const contiguous = inner() == Inner::depth ? k_stride : n_stride,
                   other = inner() == Inner::depth ? n_stride : k_stride;
    return contiguous == 1 && other % chunk_elements == 0 && group_stride % chunk_elements == 0 && aligned(data) &&
           second % chunk_bytes == 0;
  }
};

/// Right operand of a product: the columns of a tile from `first` on, of each part, over their depth.
template <class T, Inner inner_, int parts> struct WeightsOfTile {
  static constexpr Inner inner = inner_;
  WeightReader<T> from;
  index_t group;
  offset_t first, columns, depth;
  bool vectors;

  KOKKOS_FUNCTION char const* line(offset_t i) const {
    char const* const matrix = from.data + group * from.group_stride * 2;
    if constexpr (inner == Inner::side)
      return i < depth ? matrix + i * from.k_stride * 2 : nullptr;
    else {
      offset_t const n = first + Parts<parts>::column(int(i));
      return n < columns ? matrix + Parts<parts>::part(int(i)) * from.second + n * from.n_stride * 2 : nullptr;
    }
  }
  KOKKOS_FUNCTION Chunk chunk(char const* line, offset_t at) const {
    if (line == nullptr) return {from.data, 1, 0, false};
    if constexpr (inner == Inner::side) {
      offset_t const n = first + Parts<parts>::column(int(at));
      int const valid = elements_left(columns, n);
      char const* const data = line + Parts<parts>::part(int(at)) * from.second + n * from.n_stride * 2;
      return {valid > 0 ? data : from.data, from.n_stride, valid, false};
    } else {
      int const valid = elements_left(depth, at);
      return {valid > 0 ? line + at * from.k_stride * 2 : from.data, from.k_stride, valid, false};
    }
  }
  KOKKOS_FUNCTION float factor(offset_t) const { return 1; }
};

/// Eight elements in registers.
template <class T> struct alignas(chunk_bytes) Elements { T v[chunk_elements]; };

template <class T> KOKKOS_FUNCTION Elements<T> read_elements(Chunk const& chunk, float factor) {
  Elements<T> elements;
  unrolled<chunk_elements>([&](int i) {
    float value = 0;
    if (i < chunk.valid)
      value = chunk.wide ? reinterpret_cast<float const*>(chunk.data)[i * chunk.step]
                         : static_cast<float>(reinterpret_cast<T const*>(chunk.data)[i * chunk.step]);
    elements.v[i] = T(factor * value);
  });
  return elements;
}

} // namespace kokomo::inline v0::detail::cuda

#endif
