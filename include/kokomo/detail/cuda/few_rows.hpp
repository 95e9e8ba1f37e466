// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_CUDA_FEW_ROWS_HPP
#define KOKOMO_DETAIL_CUDA_FEW_ROWS_HPP

#include <kokomo/detail/cuda/products.hpp>

/// Kernels for few rows a group, whose time is that of reading the weights: no tensor cores, no tiles. A warp owns a
/// column (of gate and up) of up to eight rows of a group, reads the column's weights once, 16 bytes a thread, and adds up
/// its threads' sums in a fixed order. A row's bits do not depend on what other rows there are.
namespace kokomo::inline v0::detail::cuda {

inline constexpr int few_rows_height = 8;

/// Whether rows are few, as far as the host knows: four a group on the average.
inline bool has_few_rows(GroupedRows const& rows) {
  return rows.rows <= 4 * offset_t(rows.groups);
}

template <class T, int parts_> struct FewRows {
  struct Shape {
    static constexpr int warps = 4, threads = warps * warp_size, blocks = 4, shared_bytes = 0;
  };
  static constexpr int parts = parts_;
  GroupedRows rows;
  RowReader<T> a;
  offset_t depth;
  WeightReader<T> weights;
  offset_t columns; ///< of each part

  /// Rows and weights that can be read 16 bytes at a time along the depth. The others are left to tiles.
  bool serves() const {
    return a.vectors() && weights.vectors() && weights.inner() == Inner::depth && depth % chunk_elements == 0;
  }
  offset_t blocks() const { return rows.rows * tiles_of(columns, Shape::warps); }

  /// Calls done(row, group, column, sums of the parts) on one thread for each row of the block's.
  template <class Machine, class Done> KOKKOS_FUNCTION void run(Machine& m, offset_t block, Done const& done) const {
    using Total = typename Machine::template Lanes<float>;
    struct Sums {
      float v[parts][few_rows_height];
    };
    offset_t const column_tiles = tiles_of(columns, Shape::warps), row = block / column_tiles;
    if (!rows.contains(row)) return;
    index_t const group = rows.group_of(row);
    offset_t const left = rows.end(group) - row;
    if ((row - rows.begin(group)) % few_rows_height != 0) return; // another block has it
    int const count = static_cast<int>(left < few_rows_height ? left : few_rows_height);
    m.phase([&](int warp) {
      offset_t const column = block % column_tiles * Shape::warps + warp;
      if (column >= columns) return;
      typename Machine::template Lanes<Sums> sums;
      m.lanes([&](int lane) { sums[lane] = partial_sums<Sums>(row, count, group, column, lane); });
      Total mine[parts]; // lane r keeps row r
      unrolled<few_rows_height>([&](int r) {
        unrolled<parts>([&](int p) {
          Total total;
          m.lanes([&](int lane) { total[lane] = sums[lane].v[p][r]; });
          m.warp_sum(total);
          m.lanes([&](int lane) {
            if (lane == r) mine[p][lane] = total[lane];
          });
        });
      });
      m.lanes([&](int lane) {
        if (lane >= count) return;
        float values[parts];
        unrolled<parts>([&](int p) { values[p] = mine[p][lane]; });
        done(row + lane, group, column, values);
      });
    });
  }

private:
  /// A thread's share of the depth: every 32nd chunk.
  template <class Sums>
  KOKKOS_FUNCTION Sums partial_sums(offset_t row, int count, index_t group, offset_t column, int lane) const {
    Sums sums = {};
    Elements<T> const* x[few_rows_height];
    Elements<T> const* w[parts];
    unrolled<few_rows_height>(
        [&](int r) { x[r] = reinterpret_cast<Elements<T> const*>(a.row(row + (r < count ? r : 0))); });
    unrolled<parts>([&](int p) {
      w[p] = reinterpret_cast<Elements<T> const*>(
          weights.data + (group * weights.group_stride + column * weights.n_stride) * 2 + p * weights.second);
    });
    for (offset_t chunk = lane; chunk < depth / chunk_elements; chunk += warp_size) {
      Elements<T> weight[parts];
      unrolled<parts>([&](int p) { weight[p] = w[p][chunk]; });
      unrolled<few_rows_height>([&](int r) {
        if (r >= count) return;
        Elements<T> const values = x[r][chunk];
        unrolled<parts>([&](int p) {
          unrolled<chunk_elements>([&](int e) { sums.v[p][r] += float(values.v[e]) * float(weight[p].v[e]); });
        });
      });
    }
    return sums;
  }
};

/// Product, for few rows.
template <class T, class SO> struct FewRowsProduct : FewRows<T, 1> {
  BiasRef<T const> bias;
  RowTarget<SO> out;
  Write write;

  FewRowsProduct(FewRows<T, 1> const& product, BiasRef<T const> const& b, RowTarget<SO> const& target, Write w)
      : FewRows<T, 1>(product), bias(b), out(target), write(w) {}

  template <class Machine> KOKKOS_FUNCTION void operator()(Machine& m, offset_t block) const {
    this->run(m, block, [&](offset_t row, index_t group, offset_t column, float const* sums) {
      float value = (this->a.scale != nullptr ? this->a.scale[row] : 1.0f) * sums[0];
      if (bias.data != nullptr) value += float(bias.data[group * bias.group_stride + column * bias.n_stride]);
      SO& to = out.data[row * out.stride + column];
      to = SO(write == Write::add ? float(to) + value : value);
    });
  }
};

/// HiddenLayer, for few rows.
template <class T, class Activation> struct FewRowsHiddenLayer : FewRows<T, Activation::gated ? 2 : 1> {
  using Base = FewRows<T, Activation::gated ? 2 : 1>;
  HiddenUnit<T, Activation> unit;
  T* pre; // null: not kept
  T* hidden;

  FewRowsHiddenLayer(Base const& product, HiddenUnit<T, Activation> const& u, T* keep, T* target)
      : Base(product), unit(u), pre(keep), hidden(target) {}

  template <class Machine> KOKKOS_FUNCTION void operator()(Machine& m, offset_t block) const {
    this->run(m, block, [&](offset_t row, index_t group, offset_t column, float const* sums) {
      float const scale = this->a.scale != nullptr ? this->a.scale[row] : 1.0f;
      float gate = scale * sums[0], up = scale * sums[Base::parts - 1];
      hidden[row * this->columns + column] = T(unit(group, column, gate, up));
      if (pre == nullptr) return;
      T* const kept = pre + row * Base::parts * this->columns + column;
      if constexpr (Base::parts == 2) kept[0] = T(gate);
      kept[(Base::parts - 1) * this->columns] = T(up);
    });
  }
};

} // namespace kokomo::inline v0::detail::cuda

#endif
