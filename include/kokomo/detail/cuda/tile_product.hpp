// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_CUDA_TILE_PRODUCT_HPP
#define KOKOMO_DETAIL_CUDA_TILE_PRODUCT_HPP

#include <kokomo/detail/cuda/sources.hpp>

/// The product of one block's tile. It is written for a machine, which is a GPU's block of threads (device.hpp) or, in
/// tests, a simulation of one that executes every thread on a host:
///
///     Lanes<X>                  an X of each thread of a warp, [lane]
///     Warps<X>                  an X of each warp of the block, [warp]
///     phase(f)                  f(warp) for all warps, and then a barrier
///     lanes(f)                  f(lane) for all threads of the warp
///     copy_async(to, from, n)   16 bytes to shared memory, the first n of them from global memory, the others zero
///     commit(), wait<n>()       a group of a thread's copies; until all but its last n groups have arrived
///     store(to, elements)       16 bytes to shared memory at once
///     load_matrices, multiply   ldmatrix.x4 and mma.sync of the warp
///     quad_sum, warp_sum        sums over 4 or all threads, the same in each of them
namespace kokomo::inline v0::detail::cuda {

template <class Shape, class Machine> struct Sums {
  typename Machine::template Lanes<Quad<float>> v[Shape::row_blocks][Shape::column_blocks];
};

/// The chunks of an operand's tile, which a block's threads copy in turn.
template <class Machine, class T, class Source, int side, int depth, int threads> struct TileCopy {
  using Tile = OperandTile<side, depth, Source::inner>;
  static constexpr int count = Tile::lines * Tile::chunks / threads; ///< of a thread
  /// Lines of the side stay the same while the depth advances: they are looked up once.
  static constexpr bool keeps_lines = Source::inner == Inner::depth;
  struct Lines {
    char const* v[keeps_lines ? count : 1];
  };
  typename Machine::template Lanes<Lines> lines;

  KOKKOS_FUNCTION static int number(int warp, int lane, int i) { return i * threads + warp * warp_size + lane; }

  KOKKOS_FUNCTION void look_up(Machine& m, int warp, Source const& source) {
    if constexpr (keeps_lines)
      m.lanes([&](int lane) {
        unrolled<count>([&](int i) { lines[lane].v[i] = source.line(number(warp, lane, i) / Tile::chunks); });
      });
  }

  /// Copies the tile of depth `from` and following to shared memory at byte `to`.
  KOKKOS_FUNCTION void copy(Machine& m, int warp, Source const& source, offset_t from, int to) {
    m.lanes([&](int lane) {
      unrolled<count>([&](int i) {
        int const line = number(warp, lane, i) / Tile::chunks, chunk = number(warp, lane, i) % Tile::chunks;
        int const target = to + Tile::at(0, line, chunk);
        Chunk elements;
        offset_t outer = line;
        if constexpr (keeps_lines)
          elements = source.chunk(lines[lane].v[i], from + chunk * chunk_elements);
        else {
          outer += from;
          elements = source.chunk(source.line(outer), chunk * chunk_elements);
        }
        if (source.vectors)
          m.copy_async(target, elements.data, 2 * elements.valid);
        else
          m.store(target, read_elements<T>(elements, source.factor(outer)));
      });
    });
  }
};

/// Sums, over `depth`, of products of a tile's left and right operand.
template <class T, class Shape, class Machine, class Left, class Right> struct TileProduct {
  template <class Source, int side> using Copy = TileCopy<Machine, T, Source, side, Shape::depth, Shape::threads>;
  using LeftTile = typename Copy<Left, Shape::rows>::Tile;
  using RightTile = typename Copy<Right, Shape::columns>::Tile;
  struct Warp {
    Sums<Shape, Machine> sums;
    Copy<Left, Shape::rows> left;
    Copy<Right, Shape::columns> right;
  };

  Left left;
  Right right;
  offset_t depth;

  KOKKOS_FUNCTION static int stage_at(int step) { return step % Shape::stages * Shape::stage_bytes; }

  KOKKOS_FUNCTION void copy(Machine& m, int warp, Warp& w, int step) const {
    offset_t const from = offset_t(step) * Shape::depth;
    w.left.copy(m, warp, left, from, stage_at(step));
    w.right.copy(m, warp, right, from, stage_at(step) + LeftTile::bytes);
  }

  KOKKOS_FUNCTION void multiply(Machine& m, int warp, Sums<Shape, Machine>& sums, int step) const {
    using Registers = typename Machine::template Lanes<Quad<std::uint32_t>>;
    int const left_at = stage_at(step), right_at = left_at + LeftTile::bytes;
    int const row0 = warp / Shape::across * Shape::warp_rows, column0 = warp % Shape::across * Shape::warp_columns;
    unrolled<Shape::depth / block_depth>([&](int step_in_stage) {
      int const k = step_in_stage * block_depth;
      Registers a[Shape::row_blocks], b[Shape::column_blocks / 2];
      unrolled<Shape::row_blocks>([&](int i) {
        m.template load_matrices<Left::inner == Inner::side>(a[i], [&](int lane) {
          return left_at + LeftTile::template matrix_line<true>(lane, row0 + i * block_rows, k);
        });
      });
      unrolled<Shape::column_blocks / 2>([&](int j) {
        m.template load_matrices<Right::inner == Inner::side>(b[j], [&](int lane) {
          return right_at + RightTile::template matrix_line<false>(lane, column0 + j * 2 * block_columns, k);
        });
      });
      unrolled<Shape::row_blocks>([&](int i) {
        unrolled<Shape::column_blocks>([&](int j) { m.template multiply<T>(sums.v[i][j], a[i], b[j / 2], j % 2 * 2); });
      });
    });
  }

  /// The pipeline: while one stage is multiplied, the copies of the following ones are under way. A barrier each step.
  KOKKOS_FUNCTION void run(Machine& m, typename Machine::template Warps<Warp>& warps) const {
    constexpr int ahead = Shape::stages - 1;
    int const steps = static_cast<int>((depth + Shape::depth - 1) / Shape::depth);
    m.phase([&](int warp) {
      Warp& w = warps[warp];
      w.left.look_up(m, warp, left);
      w.right.look_up(m, warp, right);
      m.lanes([&](int lane) {
        unrolled<Shape::row_blocks>(
            [&](int i) { unrolled<Shape::column_blocks>([&](int j) { w.sums.v[i][j][lane] = {}; }); });
      });
      for (int step = 0; step < ahead; ++step) {
        if (step < steps) copy(m, warp, w, step);
        m.commit();
      }
      m.template wait<ahead - 1>();
    });
    for (int step = 0; step < steps; ++step)
      m.phase([&](int warp) {
        Warp& w = warps[warp];
        if (step + ahead < steps) copy(m, warp, w, step + ahead); // where step - 1 was: all warps are done with it
        m.commit();
        multiply(m, warp, w.sums, step);
        m.template wait<ahead - 1>();
      });
  }
};

} // namespace kokomo::inline v0::detail::cuda

#endif
