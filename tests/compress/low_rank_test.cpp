// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <kokomo/compress/low_rank.hpp>

#include <support/catch.hpp>
#include <support/views.hpp>

#include <cmath>
#include <random>

namespace low_rank_test {

using namespace kokomo;
using namespace kokomo::compress;
using kokomo::test::relative_error;

std::vector<double> random(std::size_t size, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<double> values(size);
  for (double& value : values) value = normal(engine);
  return values;
}

/// U V + S, the rows of S that are in `rows` alone.
std::vector<double> product(LowRank const& m, std::vector<index_t> const& rows) {
  std::vector<double> w(m.s.size(), 0.0);
  for (offset_t i = 0; i < m.rows; ++i)
    for (offset_t j = 0; j < m.columns; ++j)
      for (offset_t r = 0; r < m.rank; ++r)
        w[std::size_t(i * m.columns + j)] += m.u[std::size_t(i * m.rank + r)] * m.v[std::size_t(r * m.columns + j)];
  for (index_t const i : rows)
    for (offset_t j = 0; j < m.columns; ++j) w[std::size_t(i * m.columns + j)] += m.s[std::size_t(i * m.columns + j)];
  return w;
}

std::vector<index_t> all_rows(offset_t rows) {
  std::vector<index_t> all;
  for (index_t i = 0; i < rows; ++i) all.push_back(i);
  return all;
}

double sum_of_squares(std::vector<double> const& values) {
  double sum = 0;
  for (double const value : values) sum += value * value;
  return sum;
}

TEST_CASE("U V + S is W before any row goes, for every rank and shape") {
  for (auto const& [rows, columns] : {std::pair<offset_t, offset_t>{1, 1}, {7, 5}, {5, 7}, {6, 6}, {1, 4}})
    for (offset_t rank = 1; rank <= std::min(rows, columns); ++rank) {
      auto const w = random(std::size_t(rows * columns), unsigned(10 * rows + rank));
      auto const m = low_rank(w, rows, columns, rank);
      REQUIRE(relative_error(product(m, all_rows(rows)), w) < 1e-14);
      if (rank == std::min(rows, columns)) REQUIRE(std::sqrt(sum_of_squares(m.s) / sum_of_squares(w)) < 1e-13);
      // sqrt(sigma) on both sides: the columns of U and the rows of V are orthogonal and of equal length.
      for (offset_t a = 0; a < rank; ++a)
        for (offset_t b = 0; b < rank; ++b) {
          double uu = 0, vv = 0;
          for (offset_t i = 0; i < rows; ++i) uu += m.u[std::size_t(i * rank + a)] * m.u[std::size_t(i * rank + b)];
          for (offset_t j = 0; j < columns; ++j)
            vv += m.v[std::size_t(a * columns + j)] * m.v[std::size_t(b * columns + j)];
          REQUIRE(std::abs(uu - vv) < 1e-12);
          if (a != b) REQUIRE(std::abs(uu) < 1e-12);
        }
    }
}

TEST_CASE("The low rank part keeps the largest singular values") {
  // W = Q1 diag(5, 2, 1, 0) Q2 with rotations in planes: what a rank leaves is what its other values are.
  std::vector<double> w(16, 0.0);
  double const sigma[] = {2, 5, 0, 1};
  for (int i = 0; i < 4; ++i) w[std::size_t(5 * i)] = sigma[i];
  auto const turn = [&](int p, int q, double angle, bool left) {
    for (int i = 0; i < 4; ++i) {
      double& a = w[std::size_t(left ? p * 4 + i : i * 4 + p)];
      double& b = w[std::size_t(left ? q * 4 + i : i * 4 + q)];
      double const x = std::cos(angle) * a - std::sin(angle) * b;
      b = std::sin(angle) * a + std::cos(angle) * b, a = x;
    }
  };
  turn(0, 1, 0.3, true), turn(1, 3, 1.1, true), turn(2, 3, 0.7, true);
  turn(0, 2, 0.5, false), turn(1, 2, 2.1, false), turn(0, 3, 0.9, false);
  double const left[] = {2 * 2 + 1, 1, 0};
  for (offset_t rank = 1; rank <= 3; ++rank)
    REQUIRE(std::abs(sum_of_squares(low_rank(w, 4, 4, rank).s) - left[rank - 1]) < 1e-13);
  REQUIRE_THROWS_AS(low_rank(w, 4, 4, 5), Error);
  REQUIRE_THROWS_AS(low_rank(w, 4, 4, 0), Error);
  REQUIRE_THROWS_AS(low_rank(w, 4, 3, 1), Error);
}

TEST_CASE("The rank of a share of the numbers") {
  REQUIRE(rank_of_ratio(0.15, 16, 32) == 2);     // ceil(1.6)
  REQUIRE(rank_of_ratio(0.5, 768, 3072) == 308); // ceil(307.2)
  REQUIRE_THROWS_AS(rank_of_ratio(0, 4, 4), Error);
}

TEST_CASE("The share of rows falls as a cube between two warm-ups") {
  KeepSchedule const keep{.steps = 1500, .first_steps = 100, .last_steps = 400};
  REQUIRE(keep(0) == 1);
  REQUIRE(keep(100) == 1);
  REQUIRE(std::abs(keep(600) - (0.1 + 0.9 * 0.125)) < 1e-15); // half way
  REQUIRE(std::abs(keep(1100) - 0.1) < 1e-15);
  REQUIRE(keep(1101) == 0.1);
  for (offset_t step = 1; step <= 1500; ++step) REQUIRE(keep(step) <= keep(step - 1));
}

TEST_CASE("Importance is an average of |w dL/dw|, a row's mean") {
  RowImportance importance;
  importance.update({1, -2, 3, 4}, {1, 1, 0, 2}, 2);
  REQUIRE(relative_error(importance.of_row, {0.15 * 1.5, 0.15 * 4}) < 1e-15);
  importance.update({1, 1, 1, 1}, {2, 0, 0, 0}, 2);
  REQUIRE(relative_error(importance.of_row, {0.85 * 0.15 * 1.5 + 0.15 * 1, 0.85 * 0.15 * 4}) < 1e-15);
  REQUIRE_THROWS_AS(importance.update({1, 1, 1}, {1, 1, 1}, 3), Error);
}

TEST_CASE("The least important rows of all matrices go, by the number of their weights") {
  // 4 rows of 10 weights and 2 of 5: 50 weights. Half of them are 25: rows of importance 1 (10), 2 (5), 3 (10) are seen, and
  // what is below 3 goes.
  std::vector<std::vector<double>> const importance{{5, 1, 3, 4}, {2, 6}};
  REQUIRE(kept_rows(importance, {10, 5}, 0.5) == std::vector<std::vector<index_t>>{{0, 2, 3}, {1}});
  REQUIRE(kept_rows(importance, {10, 5}, 1) == std::vector<std::vector<index_t>>{{0, 1, 2, 3}, {0, 1}});
  REQUIRE(kept_rows(importance, {10, 5}, 0) == std::vector<std::vector<index_t>>{{}, {1}}); // the last one stays
  REQUIRE_THROWS_AS(kept_rows(importance, {10}, 0.5), Error);
  REQUIRE_THROWS_AS(kept_rows(importance, {10, 5}, 1.5), Error);
}

} // namespace low_rank_test
