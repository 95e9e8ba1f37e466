// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>
#include <support/scorer_fixture.hpp>

#include <kokomo/error.hpp>
#include <kokomo/gate/pair_gate.hpp>
#include <kokomo/router/grid_scorer.hpp>
#include <kokomo/router/key_scorer.hpp>
#include <kokomo/router/pair_top_k.hpp>

#include <algorithm>
#include <numeric>

/// Experts as pairs of keys: scorers, retrieval and weights.

namespace pair_top_k_test {

using namespace kokomo;
using namespace kokomo::test;

struct Grid {
  int heads, rows, columns;
  int width() const { return rows + columns; }
  double logit(Row const& z, int head, int e) const {
    return z[std::size_t(head * width() + e / columns)] + z[std::size_t(head * width() + rows + e % columns)];
  }
};

/// Every pair of every head, sorted.
std::vector<int> brute_force(Row const& z, Grid const& grid, int k) {
  std::vector<int> chosen;
  for (int head = 0; head < grid.heads; ++head) {
    std::vector<int> order(std::size_t(grid.rows * grid.columns));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return grid.logit(z, head, a) > grid.logit(z, head, b); });
    chosen.insert(chosen.end(), order.begin(), order.begin() + k);
  }
  return chosen;
}

Rows random_rows(std::size_t tokens, std::size_t columns, unsigned seed, bool integers) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  Rows rows(tokens, Row(columns));
  for (auto& row : rows)
    for (double& z : row) z = integers ? std::floor(2 * normal(engine)) : normal(engine);
  return rows;
}

RoutingFixture<> fixture(Rows const& rows, Grid const& grid) {
  RoutingFixture<> f(rows, 0, std::size_t(grid.heads * grid.width()));
  f.sizes.experts = f.sizes.weighted = index_t(grid.rows * grid.columns);
  return f;
}

PairTopK selector(Grid const& grid, int k) {
  return {.k = k, .heads = grid.heads, .rows = index_t(grid.rows)};
}

TEST_CASE("the best pairs equal brute force over all pairs, ties included") {
  for (bool const integers : {false, true}) // integers: many equal sums, all of them exact
    for (Grid const grid : {Grid{1, 7, 7}, Grid{2, 4, 9}, Grid{3, 5, 2}, Grid{1, 1, 1}, Grid{1, 1, 12}})
      for (int const k : {1, 2, 5, 10}) {
        if (k > grid.rows * grid.columns) continue;
        Rows const rows = random_rows(25, std::size_t(grid.heads * grid.width()), 3, integers);
        auto f = fixture(rows, grid);
        f.select<IdentityScore>(selector(grid, k));
        for (std::size_t t = 0; t < rows.size(); ++t) REQUIRE(f.chosen()[t] == brute_force(rows[t], grid, k));
      }
}

TEST_CASE("the best pairs of a million experts") {
  Grid const grid{1, 1024, 1024};
  Rows const rows = random_rows(1, 2048, 5, false);
  auto f = fixture(rows, grid);
  PairTopK const policy = selector(grid, 16);
  f.prepare_for(policy);
  policy.select<IdentityScore>(f.exec, f.routing, Nothing{}, Nothing{}, f.assignment,
                               f.laid_out<PairTopK::Scratch<double, Exec>>(policy));
  f.exec.fence();
  for (std::size_t t = 0; t < rows.size(); ++t) REQUIRE(f.chosen()[t] == brute_force(rows[t], grid, 16));
}

TEST_CASE("pairs: masks, NaN, few keys of a half") {
  double const nan = std::numeric_limits<double>::quiet_NaN();
  Grid const grid{1, 2, 3};
  auto f = fixture({{1, 0, 0, 5, 2}, {1, 0, 0, 5, 2}, {nan, 0, 0, nan, 2}}, grid);
  f.set_token_mask({1, 0, 1});
  f.select<IdentityScore>(selector(grid, 4));
  REQUIRE(f.chosen()[0] == std::vector<int>{1, 4, 2, 5});
  REQUIRE(f.chosen()[1].empty());
  auto const with_nan = f.chosen()[2]; // a NaN key ranks last
  REQUIRE(std::vector<int>(with_nan.begin(), with_nan.begin() + 2) == std::vector<int>{5, 3});
  PairTopK few = selector(grid, 3);
  few.best_of_half = 2; // row 0 with columns 1, 2; row 1 with column 1
  f.select<IdentityScore>(few);
  REQUIRE(f.chosen()[0] == std::vector<int>{1, 4, 2});
}

/// A gate's weights as the formulas have them.
Row expected_weights(Row const& z, Grid const& grid, int k, PairWeight kind) {
  auto const chosen = brute_force(z, grid, k);
  Row weights;
  for (int head = 0; head < grid.heads; ++head) {
    double sum = 0;
    for (int j = 0; j < k; ++j) sum += std::exp(grid.logit(z, head, chosen[std::size_t(head * k + j)]));
    for (int j = 0; j < k; ++j) {
      double const logit = grid.logit(z, head, chosen[std::size_t(head * k + j)]);
      weights.push_back(kind == PairWeight::relu                ? std::max(logit, 0.0)
                        : kind == PairWeight::joint_probability ? std::exp(logit)
                                                                : std::exp(logit) / sum);
    }
  }
  return weights;
}

TEST_CASE("weights of pairs and their gradients") {
  Grid const grid{2, 3, 4};
  int const k = 3;
  Rows const rows = random_rows(6, 14, 7, false);
  for (auto const kind : {PairWeight::selected_softmax, PairWeight::relu, PairWeight::joint_probability}) {
    auto f = fixture(rows, grid);
    PairGate const gate{.weight = kind, .heads = 2, .rows = 3};
    f.select<IdentityScore>(selector(grid, k));
    f.weigh(gate);
    Row c(rows.size() * 2 * k);
    for (std::size_t i = 0; i < c.size(); ++i) c[i] = std::sin(1.0 + double(i));
    for (std::size_t t = 0; t < rows.size(); ++t)
      REQUIRE(relative_error(f.weights()[t], expected_weights(rows[t], grid, k, kind)) < 1e-14);
    auto const value = [&](Rows const& z) {
      double sum = 0;
      for (std::size_t t = 0; t < z.size(); ++t) {
        Row const w = expected_weights(z[t], grid, k, kind);
        for (std::size_t i = 0; i < w.size(); ++i) sum += w[i] * c[t * w.size() + i];
      }
      return sum;
    };
    REQUIRE(relative_error(flat(f.gate_gradient(gate, c)), flat(logit_differences(rows, value))) < 1e-8);
  }
}

TEST_CASE("the joint probability renormalised over the chosen is the softmax over the chosen") {
  Grid const grid{1, 4, 5};
  auto f = fixture(random_rows(5, 9, 9, false), grid);
  f.select<IdentityScore>(selector(grid, 6));
  f.weigh(PairGate{.weight = PairWeight::joint_probability, .rows = 4});
  auto joint = f.weights();
  f.weigh(PairGate{.rows = 4});
  for (std::size_t t = 0; t < 5; ++t) {
    double const mass = std::accumulate(joint[t].begin(), joint[t].end(), 0.0);
    for (double& w : joint[t]) w /= mass;
    REQUIRE(relative_error(f.weights()[t], joint[t]) < 1e-14);
  }
}

TEST_CASE("key scorer equals the formula, gradients equal differences") {
  int const heads = 2, n = 3, d = 2, width = 4;
  ScorerFixture<KeyScorer> f({.heads = heads, .key_size = d}, 5, width, n * n);
  Row const x = in_double(to_host(f.x)), w = in_double(to_host(f.parameters.queries)),
            keys = in_double(to_host(f.parameters.keys));
  Row expected;
  for (int t = 0; t < 5; ++t)
    for (int head = 0; head < heads; ++head)
      for (int half = 0; half < 2; ++half)
        for (int i = 0; i < n; ++i) {
          double sum = 0;
          for (int c = 0; c < d; ++c)
            for (int h = 0; h < width; ++h)
              sum += x[t * width + h] * w[((half * heads + head) * d + c) * width + h] *
                     keys[((head * n + i) * 2 + half) * d + c];
          expected.push_back(sum);
        }
  REQUIRE(relative_error(flat(f.forward()), expected) < 1e-14);
  check_scorer_gradients(f);
}

TEST_CASE("grid scorer: probabilities of all experts sum to one, gradients equal differences") {
  ScorerFixture<GridScorer> f({.rows = 3}, 4, 5, 12);
  for (auto const& z : f.forward()) {
    double sum = 0;
    for (int e = 0; e < 12; ++e) sum += std::exp(Grid{1, 3, 4}.logit(z, 0, e));
    REQUIRE(std::abs(sum - 1) < 1e-14);
  }
  check_scorer_gradients(f);
  ScorerFixture<GridScorer> plain({.log_softmax = false}, 4, 5, 9);
  check_scorer_gradients(plain);
}

TEST_CASE("pairs: settings that make no sense") {
  auto const id = [](auto const& run) {
    try {
      run();
    } catch (Error const& error) {
      return error.id();
    }
    return 0;
  };
  CHECK(id([] { ScorerFixture<KeyScorer>({.heads = 1, .key_size = 2}, 1, 2, 8); }) == 101); // no square
  CHECK(id([] { ScorerFixture<KeyScorer>({.heads = 1}, 1, 2, 9); }) == 101);
  CHECK(id([] { ScorerFixture<GridScorer>({.rows = 5}, 1, 2, 12); }) == 101);
  Sizes sizes;
  sizes.experts = 12, sizes.columns = 7;
  CHECK(id([&] { PairTopK{.k = 3, .rows = 3}.check(sizes); }) == 0);
  CHECK(id([&] { PairTopK{.k = 3, .heads = 2, .rows = 3}.check(sizes); }) == 101); // the scorer has one head
  CHECK(id([&] { PairTopK{.k = 13, .rows = 3}.check(sizes); }) == 102);
  CHECK(id([&] { PairTopK{.k = 5, .rows = 3, .best_of_half = 2}.check(sizes); }) == 102);
  CHECK(id([&] { PairGate{.rows = 2}.check(sizes); }) == 101); // 2 + 6 columns
}

} // namespace pair_top_k_test
