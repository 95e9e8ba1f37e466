// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// The kernels for tensor cores, every thread of every block simulated (support/simulated_machine.hpp), against plain
// loops in double.
#include <support/catch.hpp>
#include <support/grouped_problem.hpp>
#include <support/simulated_machine.hpp>

#include <kokomo/detail/cuda/few_rows.hpp>
#include <kokomo/experts/activation.hpp>

#include <cmath>

namespace cuda_product_test {

using namespace kokomo;
using namespace kokomo::detail;
using namespace kokomo::detail::cuda;
using namespace kokomo::test::grouped;
using kokomo::test::Copies;
using kokomo::test::run_simulated;

// small, so that few rows have several tiles; chunks of a line: 4 with the depth inside and with the side inside
using SmallTile = TileShape<32, 32, 32, 3, 2, 2, 1>;
// 8 chunks a line along either index
using WideTile = TileShape<64, 64, 64, 2, 2, 1, 1>;

template <class T, class Shape, Inner inner> void check_product(Case const& sizes, Copies copies) {
  std::mt19937 engine(7);
  Problem<T> problem(sizes, engine);
  offset_t const rows = problem.groups.rows(), columns = sizes.columns, stride = columns + 1;
  std::vector<float> out(std::size_t(rows * stride + 1), 0.5f), expected = out;
  WeightRef<T const> const weights = problem.template weight<T const>(problem.w.data());
  RowsTimesWeights<T, Shape, inner, 1> const product(problem.groups.grouped(), RowReader<T>(problem.rows()),
                                                     sizes.depth, WeightReader<T>(weights), columns);
  CHECK(run_simulated(Product<T, float, Shape, inner>(product, problem.bias_ref(), {out.data(), stride}, sizes.write),
                      copies) == 0);
  for (offset_t r = 0; r < rows; ++r)
    for (offset_t n = 0; n < columns; ++n) {
      double value = problem.product(r, n, problem.w.data());
      auto const g = problem.groups.group_of_row[std::size_t(r)];
      if (sizes.biased) value += float(problem.bias.data()[g * columns + n]);
      if (sizes.write == Write::add) value += 0.5;
      expected[std::size_t(r * stride + n)] = float(value);
    }
  REQUIRE(out == expected); // exact, and nothing beside it is touched
}

template <class T, class Shape> void check_products(Copies copies) {
  for (Case const& each : cases()) {
    CAPTURE(each.sizes.size(), each.columns, each.depth, int(each.storage));
    if (each.storage == Storage::in_out)
      check_product<T, Shape, Inner::side>(each, copies);
    else
      check_product<T, Shape, Inner::depth>(each, copies);
  }
}

TEST_CASE("cuda tile map: every row of every group is in one tile, within the bound of the launch") {
  for (int height : {1, 8, 32, 128})
    for (auto const& sizes : std::vector<std::vector<offset_t>>{
             {0}, {1}, {127, 128, 129}, {0, 0, 300, 0}, {32, 32, 32}, {1, 1, 1, 1, 1}, {1000, 0, 7}, {31, 1, 31, 1}}) {
      Groups const groups(sizes);
      std::vector<int> seen(std::size_t(groups.rows()));
      for (offset_t slack : {0, 1, 200}) {
        GroupedRows const rows{groups.offsets.data(), nullptr, groups.groups(), groups.rows() + slack};
        std::fill(seen.begin(), seen.end(), 0);
        offset_t tiles = 0, needed = 0;
        for (offset_t slot = 0; slot < row_slots(rows.rows, rows.groups, height); ++slot) {
          RowTile const tile = row_tile(rows, slot, height);
          tiles += tile.rows > 0;
          REQUIRE((tile.rows >= 0 && tile.rows <= height));
          for (int r = 0; r < tile.rows; ++r) {
            REQUIRE(groups.group_of_row[std::size_t(tile.first + r)] == tile.group);
            ++seen[std::size_t(tile.first + r)];
          }
        }
        for (offset_t size : sizes) needed += (size + height - 1) / height;
        REQUIRE(tiles == needed);
        REQUIRE(std::count(seen.begin(), seen.end(), 1) == groups.rows());
      }
    }
  // one group of all rows has no offsets
  CHECK(row_tile({nullptr, nullptr, 1, 300}, 2, 128).rows == 44);
  CHECK(row_tile({nullptr, nullptr, 1, 256}, 2, 128).rows == 0);
}

TEST_CASE("cuda raster: every tile of a launch has one block") {
  for (offset_t slots : {1, 7, 8, 9, 31})
    for (offset_t columns : {1, 3, 8}) {
      std::vector<int> seen(std::size_t(slots * columns));
      for (offset_t block = 0; block < slots * columns; ++block) {
        Raster const at(block, slots, columns);
        REQUIRE((at.slot >= 0 && at.slot < slots && at.column_tile >= 0 && at.column_tile < columns));
        ++seen[std::size_t(at.slot * columns + at.column_tile)];
      }
      REQUIRE(std::count(seen.begin(), seen.end(), 1) == slots * columns);
    }
}

template <int side, int depth, Inner inner> void check_tile_is_a_bijection() {
  using Tile = OperandTile<side, depth, inner>;
  std::vector<int> seen(Tile::bytes / chunk_bytes);
  for (int line = 0; line < Tile::lines; ++line)
    for (int chunk = 0; chunk < Tile::chunks; ++chunk) {
      REQUIRE(Tile::at(line / 8 * 8, line % 8, chunk) == Tile::at(0, line, chunk));
      ++seen.at(std::size_t(Tile::at(0, line, chunk) / chunk_bytes));
    }
  REQUIRE(std::count(seen.begin(), seen.end(), 1) == std::ptrdiff_t(seen.size()));
}

TEST_CASE("cuda swizzle: every chunk of a tile has a place of its own") {
  check_tile_is_a_bijection<128, 32, Inner::depth>();
  check_tile_is_a_bijection<128, 32, Inner::side>();
  check_tile_is_a_bijection<64, 64, Inner::depth>();
  check_tile_is_a_bijection<32, 32, Inner::side>();
}

TEST_CASE("cuda product: tiles, tails, gathers and weights in any storage order") {
  for (Copies copies : {Copies::at_once, Copies::at_the_wait}) {
    check_products<bfloat16, SmallTile>(copies);
    check_products<float16, WideTile>(copies);
  }
}

TEST_CASE("cuda product: the tile that is launched") {
  Case const each{{150, 3}, 136, 104};
  check_product<bfloat16, DefaultTile, Inner::depth>(each, Copies::at_the_wait);
  Case transposed = each;
  transposed.storage = Storage::in_out;
  check_product<bfloat16, DefaultTile, Inner::side>(transposed, Copies::at_once);
}

TEST_CASE("cuda product: rows of float32 are rounded to the storage type while they are copied") {
  std::mt19937 engine(3);
  std::uniform_real_distribution<float> uniform(-1, 1);
  Groups const groups({5, 30});
  offset_t const columns = 8, depth = 24;
  Placed<bfloat16> w(exact_values<bfloat16>(engine, 2 * columns * depth), true);
  std::vector<float> a(std::size_t(groups.rows() * depth));
  for (float& value : a) value = uniform(engine);
  std::vector<float> out(std::size_t(groups.rows() * columns));
  WeightRef<bfloat16 const> const weights{w.data(), columns * depth, depth, 1};
  RowsTimesWeights<bfloat16, SmallTile, Inner::depth, 1> const product(
      groups.grouped(), RowReader<bfloat16>(RowSource<float, float>{a.data(), depth}), depth,
      WeightReader<bfloat16>(weights), columns);
  CHECK(run_simulated(
            Product<bfloat16, float, SmallTile, Inner::depth>(product, {}, {out.data(), columns}, Write::overwrite),
            Copies::at_once) == 0);
  for (offset_t r = 0; r < groups.rows(); ++r)
    for (offset_t n = 0; n < columns; ++n) {
      double sum = 0;
      for (offset_t k = 0; k < depth; ++k)
        sum += double(float(bfloat16(a[std::size_t(r * depth + k)]))) *
               float(weights(groups.group_of_row[std::size_t(r)], n, k));
      // 24 products in float32
      REQUIRE(out[std::size_t(r * columns + n)] == Approx(sum).margin(24 * std::ldexp(1.0, -24) * 24));
    }
}

TEST_CASE("cuda tile map: rows before the first group belong to no tile") {
  std::vector<offset_t> const offsets{70, 75, 140};
  GroupedRows const rows{offsets.data(), nullptr, 2, 150};
  offset_t next = 70;
  for (offset_t slot = 0; slot < row_slots(rows.rows, rows.groups, 32); ++slot) {
    RowTile const tile = row_tile(rows, slot, 32);
    if (tile.rows == 0) continue;
    REQUIRE(tile.first == next);
    next += tile.rows;
  }
  REQUIRE(next == 140);
}

template <class T> void check_few_rows(Case const& sizes, bool serves) {
  std::mt19937 engine(13);
  Problem<T> problem(sizes, engine);
  offset_t const rows = problem.groups.rows(), columns = sizes.columns;
  WeightRef<T const> const w = problem.template weight<T const>(problem.w.data());
  FewRows<T, 1> const few{problem.groups.grouped(), RowReader<T>(problem.rows()), sizes.depth, WeightReader<T>(w),
                          columns};
  REQUIRE(few.serves() == serves);
  if (!serves) return;
  std::vector<float> out(std::size_t(rows * columns), 0.5f);
  run_simulated(FewRowsProduct<T, float>(few, problem.bias_ref(), {out.data(), columns}, sizes.write), Copies::at_once);
  for (offset_t r = 0; r < rows; ++r)
    for (offset_t n = 0; n < columns; ++n) {
      double expected = problem.product(r, n, problem.w.data()) + (sizes.write == Write::add ? 0.5 : 0.0);
      if (sizes.biased)
        expected += float(problem.bias.data()[problem.groups.group_of_row[std::size_t(r)] * columns + n]);
      REQUIRE(out[std::size_t(r * columns + n)] == float(expected)); // exact
    }

  auto const up = problem.template weight<T const>(problem.up.data());
  std::vector<T> pre(std::size_t(2 * rows * columns)), hidden(std::size_t(rows * columns)), tiles_pre = pre,
                                                                                            tiles_hidden = hidden;
  HiddenUnit<T, SwiGlu> const unit{problem.bias_ref(), problem.bias_ref(), {}};
  FewRows<T, 2> const both{few.rows, few.a, few.depth, WeightReader<T>(w, up), columns};
  RowsTimesWeights<T, SmallTile, Inner::depth, 2> const tiles(few.rows, few.a, few.depth, both.weights, columns);
  run_simulated(FewRowsHiddenLayer<T, SwiGlu>(both, unit, pre.data(), hidden.data()), Copies::at_once);
  run_simulated(HiddenLayer<T, SwiGlu, SmallTile, Inner::depth>(tiles, unit, tiles_pre.data(), tiles_hidden.data()),
                Copies::at_once);
  REQUIRE(std::memcmp(pre.data(), tiles_pre.data(), pre.size() * sizeof(T)) == 0); // sums are exact in any order
  REQUIRE(std::memcmp(hidden.data(), tiles_hidden.data(), hidden.size() * sizeof(T)) == 0);
}

TEST_CASE("cuda few rows: a warp a column, for up to eight rows of a group, as the tiles") {
  check_few_rows<bfloat16>({{1, 0, 8, 9, 17}, 13, 264}, true);
  check_few_rows<float16>({{3}, 4, 8, Storage::out_in, false, true, true, true, Write::add}, true);
  check_few_rows<bfloat16>({{3}, 8, 16, Storage::in_out}, false);
  check_few_rows<bfloat16>({{3}, 8, 19}, false);
  check_few_rows<bfloat16>({{3}, 8, 16, Storage::out_in, true, false, false, false}, false);
}

/// Hidden layer and its gradient, gated or plain, against the formulas with the published roundings.
template <class T, class Activation, class Shape, Inner inner>
void check_hidden(Case const& sizes, Activation const& activation, Copies copies) {
  constexpr int parts = Activation::gated ? 2 : 1;
  std::mt19937 engine(11);
  Problem<T> problem(sizes, engine);
  offset_t const rows = problem.groups.rows(), columns = sizes.columns;
  auto const count = std::size_t(rows * columns);
  std::vector<T> pre(count * parts), hidden(count);
  auto const gate = problem.template weight<T const>(problem.w.data());
  auto const up = problem.template weight<T const>(problem.up.data());
  RowsTimesWeights<T, Shape, inner, parts> const product(
      problem.groups.grouped(), RowReader<T>(problem.rows()), sizes.depth,
      parts == 2 ? WeightReader<T>(gate, up) : WeightReader<T>(up), columns);
  HiddenUnit<T, Activation> const unit{problem.bias_ref(), problem.bias_ref(), activation};
  CHECK(run_simulated(HiddenLayer<T, Activation, Shape, inner>(product, unit, pre.data(), hidden.data()), copies) == 0);
  for (offset_t r = 0; r < rows; ++r)
    for (offset_t n = 0; n < columns; ++n) {
      index_t const g = problem.groups.group_of_row[std::size_t(r)];
      auto const expected = [&](T* weights) {
        T value(float(problem.product(r, n, weights)));
        if (sizes.biased) value = T(float(value) + float(problem.bias.data()[g * columns + n]));
        return float(value);
      };
      float const u = expected(problem.up.data()), v = parts == 2 ? expected(problem.w.data()) : u;
      REQUIRE(float(pre[std::size_t(r * parts * columns + n)]) == v);
      REQUIRE(float(pre[std::size_t((r * parts + parts - 1) * columns + n)]) == u);
      REQUIRE(float(hidden[std::size_t(r * columns + n)]) == float(T(activation.template value<T>(v, u))));
    }

  // dA' = d_out W^T with the same weights, whose sides and depth are exchanged: here columns and depth are those of pre
  std::vector<T> d_pre(count * parts), weighted(count);
  offset_t const partial_sums = HiddenGradient<T, Activation, Shape, inner>::partial_sums(columns);
  std::vector<float> along(std::size_t(rows * partial_sums));
  RowsTimesWeights<T, Shape, inner, 1> const back(problem.groups.grouped(), RowReader<T>(problem.rows()), sizes.depth,
                                                  WeightReader<T>(up), columns);
  auto unscaled = back;
  unscaled.a.scale = nullptr;
  CHECK(run_simulated(HiddenGradient<T, Activation, Shape, inner>(unscaled, pre.data(), d_pre.data(), weighted.data(),
                                                                  problem.scale.data(), along.data(), activation),
                      copies) == 0);
  auto plain = sizes;
  plain.scaled = false;
  problem.sizes = plain;
  for (offset_t r = 0; r < rows; ++r) {
    double sum = 0, magnitude = 0;
    for (offset_t n = 0; n < columns; ++n) {
      float const v = float(pre[std::size_t(r * parts * columns + n)]);
      float const u = float(pre[std::size_t((r * parts + parts - 1) * columns + n)]);
      float const da = float(problem.product(r, n, problem.up.data())), s = problem.scale[std::size_t(r)];
      float const a = activation.template value<T>(v, u);
      float dv = 0, du = 0;
      activation.gradient(v, u, s * da, dv, du);
      if constexpr (parts == 2) REQUIRE(float(d_pre[std::size_t(r * 2 * columns + n)]) == float(T(dv)));
      REQUIRE(float(d_pre[std::size_t((r * parts + parts - 1) * columns + n)]) == float(T(du)));
      REQUIRE(float(weighted[std::size_t(r * columns + n)]) == float(T(s * a)));
      sum += double(da) * a;
      magnitude += std::abs(double(da) * a);
    }
    double total = 0;
    for (offset_t p = 0; p < partial_sums; ++p) total += along[std::size_t(r * partial_sums + p)];
    REQUIRE(std::abs(total - sum) <= double(columns) * std::ldexp(1.0, -24) * magnitude); // sums in float32
  }
}

TEST_CASE("cuda hidden layer: gated and plain, forward and gradient, as the portable functors round") {
  std::vector<offset_t> const ragged{0, 5, 33, 0, 64, 1};
  for (Copies copies : {Copies::at_once, Copies::at_the_wait}) {
    check_hidden<bfloat16, SwiGlu, SmallTile, Inner::depth>({ragged, 40, 72}, {}, copies);
    check_hidden<bfloat16, SwiGlu, SmallTile, Inner::side>({ragged, 40, 72, Storage::in_out, true, true, true}, {},
                                                           copies);
    check_hidden<float16, Plain<SquaredRelu>, SmallTile, Inner::depth>(
        {ragged, 19, 33, Storage::strided, false, false, true}, {}, copies);
  }
  check_hidden<bfloat16, SwiGlu, DefaultTile, Inner::depth>({{140}, 72, 40}, {}, Copies::at_the_wait);
}

template <class T, class Shape> void check_outer(Case const& sizes, Copies copies) {
  std::mt19937 engine(5);
  Problem<T> problem(sizes, engine);
  auto const weights = std::size_t(problem.groups.groups() * problem.weight_extent());
  std::vector<T> w(weights, T(0.5f)), expected = w;
  RowSource<T, float> const d{problem.d.data(), sizes.columns}, a = problem.rows();
  CHECK(
      run_simulated(OuterProduct<T, T, Shape>(problem.groups.grouped(), RowReader<T>(d), sizes.columns, RowReader<T>(a),
                                              sizes.depth, problem.template weight<T>(w.data()), sizes.write),
                    copies) == 0);
  auto const target = problem.template weight<T>(expected.data());
  for (index_t g = 0; g < problem.groups.groups(); ++g)
    for (offset_t n = 0; n < sizes.columns; ++n)
      for (offset_t k = 0; k < sizes.depth; ++k) {
        double sum = 0;
        for (offset_t r = problem.groups.offsets[std::size_t(g)]; r < problem.groups.offsets[std::size_t(g) + 1]; ++r)
          sum += double(d(r, n)) * float(T(a(r, k)));
        target(g, n, k) = T(float(sum + (sizes.write == Write::add ? 0.5 : 0.0)));
      }
  REQUIRE(std::memcmp(w.data(), expected.data(), w.size() * sizeof(T)) == 0);
}

TEST_CASE("cuda outer product: rows gathered and scaled, groups of any height, gradients in any storage order") {
  for (Copies copies : {Copies::at_once, Copies::at_the_wait})
    for (Case const& each : cases()) {
      CAPTURE(each.sizes.size(), each.columns, each.depth, int(each.storage));
      check_outer<bfloat16, SmallTile>(each, copies);
    }
  check_outer<float16, DefaultTile>({{3, 70}, 72, 136}, Copies::at_the_wait);
}

} // namespace cuda_product_test
