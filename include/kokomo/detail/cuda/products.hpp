// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_CUDA_PRODUCTS_HPP
#define KOKOMO_DETAIL_CUDA_PRODUCTS_HPP

#include <kokomo/detail/cuda/tile_product.hpp>

/// The kernels on tensor cores. Each is a functor of a machine and a block; `blocks()` many cover the work, whatever
/// the groups' rows are. Sums are in float32, in the same order for every row of a kernel.
namespace kokomo::inline v0::detail::cuda {

/// Two neighbours of a row, written together where they can be.
template <class S> KOKKOS_FUNCTION void write_pair(S* to, float first, float second, int valid) {
  struct alignas(2 * sizeof(S)) Pair {
    S v[2];
  };
  if (valid == 2 && reinterpret_cast<std::uintptr_t>(to) % sizeof(Pair) == 0)
    *reinterpret_cast<Pair*>(to) = Pair{{S(first), S(second)}};
  else {
    if (valid > 0) to[0] = S(first);
    if (valid > 1) to[1] = S(second);
  }
}

KOKKOS_INLINE_FUNCTION int pair_valid(offset_t columns, offset_t column) {
  return column + 1 < columns ? 2 : column < columns ? 1 : 0;
}

/// What kernels of rows times weights have in common.
template <class T, class Shape_, Inner inner, int parts_> struct RowsTimesWeights {
  using Shape = Shape_;
  static constexpr int parts = parts_, tile_columns = Shape::columns / parts; ///< columns of each part
  GroupedRows rows;
  RowReader<T> a;
  offset_t depth;
  WeightReader<T> weights;
  offset_t columns; ///< of each part
  bool a_vectors, weight_vectors;

  RowsTimesWeights(GroupedRows const& groups, RowReader<T> const& left, offset_t sum_over, WeightReader<T> const& right,
                   offset_t width)
      : rows(groups), a(left), depth(sum_over), weights(right), columns(width), a_vectors(left.vectors()),
        weight_vectors(right.vectors()) {}

  template <class Machine>
  using Product = TileProduct<T, Shape, Machine, RowsOfTile<T>, WeightsOfTile<T, inner, parts>>;

  offset_t column_tiles() const { return tiles_of(columns, tile_columns); }
  offset_t blocks() const { return row_slots(rows.rows, rows.groups, Shape::rows) * column_tiles(); }

  /// Calls done(tile, first column of the tile, sums) for the block's tile, unless it has no rows.
  template <class Machine, class Done> KOKKOS_FUNCTION void run(Machine& m, offset_t block, Done const& done) const {
    Raster const raster(block, row_slots(rows.rows, rows.groups, Shape::rows), tiles_of(columns, tile_columns));
    RowTile const tile = row_tile(rows, raster.slot, Shape::rows);
    if (tile.rows == 0) return;
    offset_t const first = raster.column_tile * tile_columns;
    Product<Machine> const product{
        {a, tile, depth, a_vectors}, {weights, tile.group, first, columns, depth, weight_vectors}, depth};
    typename Machine::template Warps<typename Product<Machine>::Warp> warps(m);
    product.run(m, warps);
    m.phase([&](int warp) { done(warp, tile, first, warps[warp].sums); });
  }

  /// Calls each(row, column, i, j, at) for the pairs of sums at and at + 1 of blocks (i, j) of a thread, which belong to
  /// two neighbouring columns; j counts blocks of one part.
  template <class F>
  KOKKOS_FUNCTION static void for_each_pair(int warp, int lane, RowTile const& tile, offset_t first, F const& each) {
    int const row0 = warp / Shape::across * Shape::warp_rows;
    int const column0 = warp % Shape::across * Shape::warp_columns / parts;
    unrolled<Shape::row_blocks * 2>([&](int half_block) {
      int const i = half_block / 2, at = half_block % 2 * 2, row = row0 + i * block_rows + sum_row(lane, at);
      if (row < tile.rows)
        unrolled<Shape::column_blocks / parts>([&](int j) {
          each(tile.first + row, first + column0 + j * block_columns + sum_column(lane, at), i, j, at);
        });
    });
  }
};

/// out(r, n) (=|+=) scale[r] sum_k a(r, k) b(g, n, k) + bias(g, n).
template <class T, class SO, class Shape, Inner inner> struct Product : RowsTimesWeights<T, Shape, inner, 1> {
  BiasRef<T const> bias;
  RowTarget<SO> out;
  Write write;

  Product(RowsTimesWeights<T, Shape, inner, 1> const& product, BiasRef<T const> const& b, RowTarget<SO> const& target,
          Write w)
      : RowsTimesWeights<T, Shape, inner, 1>(product), bias(b), out(target), write(w) {}

  template <class Machine> KOKKOS_FUNCTION void operator()(Machine& m, offset_t block) const {
    this->run(m, block, [&](int warp, RowTile const& tile, offset_t first, auto& sums) {
      m.lanes([&](int lane) {
        this->for_each_pair(warp, lane, tile, first, [&](offset_t row, offset_t column, int i, int j, int at) {
          int const valid = pair_valid(this->columns, column);
          if (valid == 0) return;
          float const scale = this->a.scale != nullptr ? this->a.scale[row] : 1.0f;
          float v[2] = {scale * sums.v[i][j][lane].v[at], scale * sums.v[i][j][lane].v[at + 1]};
          SO* const to = out.data + row * out.stride + column;
          unrolled<2>([&](int e) {
            if (e >= valid) return;
            if (bias.data != nullptr)
              v[e] += float(bias.data[tile.group * bias.group_stride + (column + e) * bias.n_stride]);
            if (write == Write::add) v[e] += float(to[e]);
          });
          write_pair(to, v[0], v[1], valid);
        });
      });
    });
  }
};

/// Pre-activations of one hidden unit become the hidden layer: rounded to T, the bias added and rounded, as Activate.
template <class T, class Activation> struct HiddenUnit {
  static constexpr bool gated = Activation::gated;
  BiasRef<T const> gate_bias, up_bias;
  Activation activation;

  KOKKOS_FUNCTION static float with_bias(float sum, BiasRef<T const> const& bias, index_t group, offset_t column) {
    T const rounded(sum);
    if (bias.data == nullptr) return float(rounded);
    return float(T(float(rounded) + float(bias.data[group * bias.group_stride + column * bias.n_stride])));
  }
  KOKKOS_FUNCTION float operator()(index_t group, offset_t column, float& gate, float& up) const {
    up = with_bias(up, up_bias, group, column);
    gate = gated ? with_bias(gate, gate_bias, group, column) : up;
    return activation.template value<T>(gate, up);
  }
};

/// hidden(r, i) = act(gate(r, i), up(r, i)), gate and up as one product; pre [rows, (gate) up] is kept if it is asked for.
template <class T, class Activation, class Shape, Inner inner>
struct HiddenLayer : RowsTimesWeights<T, Shape, inner, Activation::gated ? 2 : 1> {
  using Base = RowsTimesWeights<T, Shape, inner, Activation::gated ? 2 : 1>;
  HiddenUnit<T, Activation> unit;
  T* pre;    // null: not kept
  T* hidden; // [rows, columns]

  HiddenLayer(Base const& product, HiddenUnit<T, Activation> const& u, T* keep, T* target)
      : Base(product), unit(u), pre(keep), hidden(target) {}

  template <class Machine> KOKKOS_FUNCTION void operator()(Machine& m, offset_t block) const {
    this->run(m, block, [&](int warp, RowTile const& tile, offset_t first, auto& sums) {
      m.lanes([&](int lane) {
        this->for_each_pair(warp, lane, tile, first, [&](offset_t row, offset_t column, int i, int j, int at) {
          int const valid = pair_valid(this->columns, column);
          if (valid == 0) return;
          float const scale = this->a.scale != nullptr ? this->a.scale[row] : 1.0f;
          float gate[2] = {}, up[2] = {}, h[2] = {};
          unrolled<2>([&](int e) {
            if (e >= valid) return;
            gate[e] = scale * sums.v[i][j * Base::parts][lane].v[at + e];
            up[e] = scale * sums.v[i][j * Base::parts + Base::parts - 1][lane].v[at + e];
            h[e] = unit(tile.group, column + e, gate[e], up[e]);
          });
          write_pair(hidden + row * this->columns + column, h[0], h[1], valid);
          if (pre == nullptr) return;
          T* const kept = pre + row * Base::parts * this->columns + column;
          write_pair(kept, gate[0], gate[1], valid);
          if constexpr (Base::parts == 2) write_pair(kept + this->columns, up[0], up[1], valid);
        });
      });
    });
  }
};

/// With dA' = d_out W_down (no weight) and s the row's weight: d_pre = act'(pre) (s dA'), hidden <- s act(pre), and <dA',
/// act(pre)> over the columns of each warp, as ActivateBackward in one pass with the product.
template <class T, class Activation, class Shape, Inner inner>
struct HiddenGradient : RowsTimesWeights<T, Shape, inner, 1> {
  using Base = RowsTimesWeights<T, Shape, inner, 1>;
  T const* pre;        // [rows, (gate) up]
  T* d_pre;            // the same
  T* hidden;           // [rows, columns]
  float const* weight; // null: one
  float* along;        // [rows, partial_sums(columns)], null: not wanted
  Activation activation;

  HiddenGradient(Base const& product, T const* kept, T* gradient, T* weighted, float const* s, float* partial,
                 Activation const& act)
      : Base(product), pre(kept), d_pre(gradient), hidden(weighted), weight(s), along(partial), activation(act) {}

  static offset_t partial_sums(offset_t columns) { return tiles_of(columns, Shape::columns) * Shape::across; }

  template <class Machine> KOKKOS_FUNCTION void operator()(Machine& m, offset_t block) const {
    using Partial = typename Machine::template Lanes<float>;
    this->run(m, block, [&](int warp, RowTile const& tile, offset_t first, auto& sums) {
      Partial partial[Shape::row_blocks * 2]; // of each row of the thread
      m.lanes([&](int lane) {
        unrolled<Shape::row_blocks * 2>([&](int i) { partial[i][lane] = 0; });
        this->for_each_pair(warp, lane, tile, first, [&](offset_t row, offset_t column, int i, int j, int at) {
          int const valid = pair_valid(this->columns, column);
          if (valid == 0) return;
          auto const& da = sums.v[i][j][lane].v;
          partial[i * 2 + at / 2][lane] += write_units(row, column, valid, da[at], da[at + 1]);
        });
      });
      if (along == nullptr) return;
      offset_t const all = tiles_of(this->columns, Shape::columns) * Shape::across;
      offset_t const place = first / Shape::columns * Shape::across + warp % Shape::across;
      int const row0 = warp / Shape::across * Shape::warp_rows;
      unrolled<Shape::row_blocks * 2>([&](int i) {
        m.quad_sum(partial[i]);
        m.lanes([&](int lane) {
          int const row = row0 + i / 2 * block_rows + sum_row(lane, i % 2 * 2);
          if (lane % 4 == 0 && row < tile.rows) along[(tile.first + row) * all + place] = partial[i][lane];
        });
      });
    });
  }

private:
  KOKKOS_FUNCTION float write_units(offset_t row, offset_t column, int valid, float da0, float da1) const {
    constexpr int parts = Activation::gated ? 2 : 1;
    offset_t const kept = row * parts * this->columns + column;
    float const s = weight != nullptr ? weight[row] : 1.0f, da[2] = {da0, da1};
    float d_gate[2] = {}, d_up[2] = {}, h[2] = {}, along_row = 0;
    unrolled<2>([&](int e) {
      if (e >= valid) return;
      float const gate = float(pre[kept + e]), up = float(pre[kept + (parts - 1) * this->columns + e]);
      float const a = activation.template value<T>(gate, up);
      along_row += da[e] * a;
      activation.gradient(gate, up, s * da[e], d_gate[e], d_up[e]);
      h[e] = s * a;
    });
    if constexpr (parts == 2) write_pair(d_pre + kept, d_gate[0], d_gate[1], valid);
    write_pair(d_pre + kept + (parts - 1) * this->columns, d_up[0], d_up[1], valid);
    write_pair(hidden + row * this->columns + column, h[0], h[1], valid);
    return along_row;
  }
};

/// w(g, n, k) (=|+=) sum over the rows r of group g of d(r, n) a(r, k): the depth is what varies from group to group.
template <class T, class SW, class Shape_> struct OuterProduct {
  using Shape = Shape_;
  GroupedRows rows;
  RowReader<T> d, a;
  offset_t columns, depth; ///< of d and of a
  WeightRef<SW> w;
  Write write;
  bool d_vectors, a_vectors;

  OuterProduct(GroupedRows const& groups, RowReader<T> const& left, offset_t left_columns, RowReader<T> const& right,
               offset_t right_columns, WeightRef<SW> const& target, Write how)
      : rows(groups), d(left), a(right), columns(left_columns), depth(right_columns), w(target), write(how),
        d_vectors(left.vectors() && left.scale == nullptr), a_vectors(right.vectors() && right.scale == nullptr) {}

  offset_t blocks() const { return rows.groups * tiles_of(columns, Shape::rows) * tiles_of(depth, Shape::columns); }

  template <class Machine> KOKKOS_FUNCTION void operator()(Machine& m, offset_t block) const {
    using Tiles = TileProduct<T, Shape, Machine, ColumnsOfRows<T>, ColumnsOfRows<T>>;
    offset_t const across = tiles_of(depth, Shape::columns), down = tiles_of(columns, Shape::rows);
    auto const group = static_cast<index_t>(block / (across * down));
    Raster const raster(block % (across * down), down, across);
    offset_t const n0 = raster.slot * Shape::rows, k0 = raster.column_tile * Shape::columns;
    offset_t const begin = rows.begin(group), end = rows.end(group);
    if (begin == end && write == Write::add) return;
    Tiles const product{{d, begin, end, n0, columns, d_vectors}, {a, begin, end, k0, depth, a_vectors}, end - begin};
    typename Machine::template Warps<typename Tiles::Warp> warps(m);
    product.run(m, warps);
    m.phase([&](int warp) {
      offset_t const row0 = n0 + warp / Shape::across * Shape::warp_rows;
      offset_t const column0 = k0 + warp % Shape::across * Shape::warp_columns;
      m.lanes([&](int lane) {
        unrolled<Shape::row_blocks>([&](int i) {
          unrolled<Shape::column_blocks>([&](int j) {
            auto const& sum = warps[warp].sums.v[i][j][lane].v;
            unrolled<2>([&](int half) {
              offset_t const n = row0 + i * block_rows + sum_row(lane, half * 2);
              offset_t const k = column0 + j * block_columns + sum_column(lane, 0);
              int const valid = n < columns ? pair_valid(depth, k) : 0;
              if (valid > 0) write_weights(group, n, k, valid, sum[half * 2], sum[half * 2 + 1]);
            });
          });
        });
      });
    });
  }

private:
  KOKKOS_FUNCTION void write_weights(index_t group, offset_t n, offset_t k, int valid, float first,
                                     float second) const {
    float v[2] = {first, second};
    if (write == Write::add)
      unrolled<2>([&](int e) {
        if (e < valid) v[e] += float(w(group, n, k + e));
      });
    if (w.k_stride == 1)
      write_pair(&w(group, n, k), v[0], v[1], valid);
    else
      unrolled<2>([&](int e) {
        if (e < valid) w(group, n, k + e) = SW(v[e]);
      });
  }
};

} // namespace kokomo::inline v0::detail::cuda

#endif
