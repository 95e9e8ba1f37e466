// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_CUDA_FRAGMENTS_HPP
#define KOKOMO_DETAIL_CUDA_FRAGMENTS_HPP

#include <kokomo/types.hpp>

#include <utility>

/// Where the elements of a tile stand: in shared memory, and in the registers of a warp's threads, as
/// mma.sync.m16n8k16 and ldmatrix have them (PTX ISA, "Matrix fragments for mma.m16n8k16" and "ldmatrix").
///
/// An operand has a side (rows of the left one, columns of the right one) and a depth, over which products are summed.
namespace kokomo::inline v0::detail::cuda {

inline constexpr int warp_size = 32;
inline constexpr int chunk_elements = 8; ///< 16-bit elements that are copied at a time
inline constexpr int chunk_bytes = 16;
inline constexpr int block_rows = 16, block_columns = 8, block_depth = 16; ///< of one mma

template <class X> struct Quad { X v[4]; };

/// f(0), ..., f(n - 1), written out: arrays that are indexed so stay in registers.
template <class F, int... i> KOKKOS_FUNCTION void unrolled(F const& f, std::integer_sequence<int, i...>) {
  (f(i), ...);
}
template <int n, class F> KOKKOS_FUNCTION void unrolled(F const& f) {
  unrolled(f, std::make_integer_sequence<int, n>{});
}

/// Which index of an operand is contiguous, in global memory as in shared memory.
enum class Inner { depth, side };

/// A tile of an operand in shared memory: lines of chunks. Within a line chunks are exchanged, so that the eight lines of
/// one matrix of ldmatrix lie in different banks, whichever chunk of theirs is read.
template <int side, int depth, Inner inner> struct OperandTile {
  static constexpr int lines = inner == Inner::depth ? side : depth;
  static constexpr int chunks = (inner == Inner::depth ? depth : side) / chunk_elements; ///< of a line
  static constexpr int bytes = side * depth * 2;
  static_assert(chunks >= 4 && (chunks & (chunks - 1)) == 0 && lines % 8 == 0);

  /// Byte offset of a chunk; lines first_line + line, where first_line is a multiple of 8.
  KOKKOS_FUNCTION static constexpr int at(int first_line, int line, int chunk) {
    int const exchanged = chunks >= 8 ? chunk ^ (line % 8) : chunk ^ (line / 2 % 4);
    return (first_line * chunks + line * chunks + exchanged) * chunk_bytes;
  }

  /// The line of a 16 x 16 block at (side0, depth0) whose address a lane gives to ldmatrix.x4. Lanes 8 i .. 8 i + 7 name
  /// the lines of matrix i, which becomes register i: of the left operand the matrices (rows, depth) (0, 0), (8, 0),
  /// (0, 8), (8, 8); of the right one, whose two halves are the operands of two mma, (0, 0), (0, 8), (8, 0), (8, 8).
  template <bool left> KOKKOS_FUNCTION static constexpr int matrix_line(int lane, int side0, int depth0) {
    int const matrix = lane / 8;
    int const further_side = (left ? matrix % 2 : matrix / 2) * 8, further_depth = (left ? matrix / 2 : matrix % 2) * 8;
    if (inner == Inner::depth) return at(side0, further_side + lane % 8, (depth0 + further_depth) / chunk_elements);
    return at(depth0, further_depth + lane % 8, (side0 + further_side) / chunk_elements);
  }
};

/// Row and column, within a block of 16 x 8 sums, of a lane's sum i of four: 2 and 3 stand eight rows below 0 and 1.
KOKKOS_INLINE_FUNCTION constexpr int sum_row(int lane, int i) {
  return lane / 4 + i / 2 * 8;
}
KOKKOS_INLINE_FUNCTION constexpr int sum_column(int lane, int i) {
  return lane % 4 * 2 + i % 2;
}

/// Column tiles of gated experts hold gate and up columns of the same hidden columns, eight by eight in turn, so that one
/// thread has both sums of a column. With one part nothing is exchanged.
template <int parts> struct Parts {
  KOKKOS_FUNCTION static constexpr int part(int column) { return column / block_columns % parts; }
  KOKKOS_FUNCTION static constexpr int column(int column) {
    return column / (block_columns * parts) * block_columns + column % block_columns;
  }
};

/// The sizes of a block's tile: `rows` x `columns` sums, `depth` at a time, `stages` of them in shared memory, shared
/// among `down` x `across` warps.
template <int rows_, int columns_, int depth_, int stages_, int down_, int across_, int blocks_> struct TileShape {
  static constexpr int rows = rows_, columns = columns_, depth = depth_, stages = stages_;
  static constexpr int down = down_, across = across_, warps = down * across, threads = warps * warp_size;
  static constexpr int blocks = blocks_; ///< of a multiprocessor: bounds a thread's registers
  static constexpr int warp_rows = rows / down, warp_columns = columns / across;
  static constexpr int row_blocks = warp_rows / block_rows, column_blocks = warp_columns / block_columns;
  static constexpr int stage_bytes = (rows + columns) * depth * 2, shared_bytes = stages * stage_bytes;
  static_assert(warp_rows % block_rows == 0 && warp_columns % (2 * block_columns) == 0 && depth % block_depth == 0);
  static_assert(rows * depth % (threads * chunk_elements) == 0 && columns * depth % (threads * chunk_elements) == 0);
  static_assert(stages >= 2);
};

/// 64 sums a thread; 64 KiB of shared memory, of which two blocks fit on sm_80 and sm_90.
using DefaultTile = TileShape<128, 128, 32, 4, 2, 4, 2>;

} // namespace kokomo::inline v0::detail::cuda

#endif
