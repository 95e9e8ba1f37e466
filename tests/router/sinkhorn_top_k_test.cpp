// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>

#include <kokomo/gate/score_gate.hpp>
#include <kokomo/router/sinkhorn_top_k.hpp>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

namespace sinkhorn_top_k_test {

using namespace kokomo;
using namespace kokomo::test;
using Choice = std::vector<std::vector<int>>;

/// Logits with an offset an expert, so that plain top-k is unbalanced.
Rows skewed(std::size_t tokens, std::size_t experts, unsigned seed, double skew = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  Row offset(experts);
  for (double& o : offset) o = skew * normal(engine);
  Rows rows(tokens, Row(experts));
  for (auto& row : rows)
    for (std::size_t e = 0; e < experts; ++e) row[e] = normal(engine) + offset[e];
  return rows;
}

/// The published loop, as it is written: exponentials, no bound on the iterations.
struct Published {
  Row d0, d1;
  Rows plan;
  int iterations = 0;

  explicit Published(Rows const& logits) {
    std::size_t const tokens = logits.size(), experts = logits[0].size();
    d0.assign(tokens, 1), d1.assign(experts, 1), plan = logits;
    for (double error = 1; error > 1e-4; ++iterations) {
      auto const before = d1;
      for (std::size_t t = 0; t < tokens; ++t) {
        double sum = 0;
        for (std::size_t e = 0; e < experts; ++e) sum += std::exp(logits[t][e]) * d1[e];
        d0[t] = 1.0 / double(tokens) / (sum + 1e-8);
      }
      error = 0;
      for (std::size_t e = 0; e < experts; ++e) {
        double sum = 0;
        for (std::size_t t = 0; t < tokens; ++t) sum += std::exp(logits[t][e]) * d0[t];
        d1[e] = 1.0 / double(experts) / (sum + 1e-8);
        error += std::abs(d1[e] - before[e]) / double(experts);
      }
    }
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t e = 0; e < experts; ++e) plan[t][e] = d1[e] * std::exp(logits[t][e]) * d0[t];
  }
};

Choice top_k(Rows const& values, std::size_t k) {
  Choice choice;
  for (auto const& row : values) {
    std::vector<int> order(row.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int i, int j) { return row[i] > row[j]; });
    order.resize(k);
    choice.push_back(order);
  }
  return choice;
}

double max_violation(std::vector<offset_t> const& loads) {
  double const mean = double(std::accumulate(loads.begin(), loads.end(), offset_t(0))) / double(loads.size());
  return double(*std::max_element(loads.begin(), loads.end())) / mean - 1;
}

TEST_CASE("Sinkhorn's potentials are those of the published loop") {
  for (auto const& [tokens, experts] : std::vector<std::pair<int, int>>{{1, 1}, {5, 3}, {64, 8}, {200, 17}}) {
    auto const logits = skewed(std::size_t(tokens), std::size_t(experts), 3);
    Published const ref(logits);
    RoutingFixture<> f(logits);
    f.prepare_for(SinkhornTopK{});
    auto const plan = f.laid_out<SinkhornTopK::Scratch<double, Exec>>(SinkhornTopK{});
    to_device(to_host(f.logits), plan.scores);
    detail::equal_marginals(f.exec, f.routing, plan, true);
    detail::sinkhorn<double, Exec>(f.exec, plan, {100, 1e-4, std::log(1e-8), detail::SinkhornStop::column_scaling});
    f.exec.fence();
    Row d0, d1;
    for (double const p : to_host(plan.row)) d0.push_back(std::exp(p));
    for (double const p : to_host(plan.column)) d1.push_back(std::exp(p));
    // the same sums in another order, through logarithms: some hundred roundings
    CHECK(relative_error(d0, ref.d0) < 1e-12);
    CHECK(relative_error(d1, ref.d1) < 1e-12);
  }
}

TEST_CASE("Sinkhorn routing takes the plan's largest entries in training, the logits' in inference") {
  auto const logits = skewed(256, 16, 5);
  for (int const k : {1, 2, 16}) {
    RoutingFixture<> f(logits);
    f.routing.mode = Mode::training;
    f.select<SoftmaxScore>(SinkhornTopK{.k = k});
    REQUIRE(f.chosen() == top_k(Published(logits).plan, std::size_t(k)));
    auto const balanced = max_violation(f.loads());
    f.routing.mode = Mode::inference;
    f.select<SoftmaxScore>(SinkhornTopK{.k = k});
    REQUIRE(f.chosen() == top_k(logits, std::size_t(k)));
    if (k < 16) {
      CHECK(max_violation(f.loads()) > 1);
      CHECK(balanced < 0.6); // sums of the plan are equal, the counts of its largest entries nearly so
    }
  }
}

TEST_CASE("Sinkhorn weighs by the logits: no gradient passes through the plan") {
  auto const logits = skewed(20, 4, 6);
  RoutingFixture<> f(logits);
  f.routing.mode = Mode::training;
  f.select<SigmoidScore>(SinkhornTopK{.k = 1});
  f.weigh(SigmoidGate{});
  auto const chosen = f.chosen();
  auto const d = f.gate_gradient(SigmoidGate{}, Row(20, 1.0));
  for (std::size_t t = 0; t < 20; ++t)
    for (int e = 0; e < 4; ++e) {
      double const s = 1 / (1 + std::exp(-logits[t][std::size_t(e)]));
      if (e == chosen[t][0]) REQUIRE(f.weights()[t][0] == Approx(s));
      REQUIRE(d[t][std::size_t(e)] == (e == chosen[t][0] ? Approx(s * (1 - s)) : Approx(0.0)));
    }
}

TEST_CASE("Sinkhorn survives logits that overflow the published form, masks and numbers that are none") {
  auto logits = skewed(64, 8, 7);
  RoutingFixture<float> small(logits);
  for (auto& row : logits)
    for (double& z : row) z += 200; // exp(200) is no float32; a shift of all logits changes nothing
  RoutingFixture<float> large(logits);
  for (auto* const f : {&small, &large}) {
    f->routing.mode = Mode::training;
    f->select<SoftmaxScore>(SinkhornTopK{.k = 2});
  }
  REQUIRE(large.chosen() == small.chosen());

  logits = skewed(40, 4, 8);
  std::vector<index_t> mask(40, 1);
  for (std::size_t t = 20; t < 40; ++t) mask[t] = 0;
  RoutingFixture<> masked(logits);
  masked.routing.mode = Mode::training;
  masked.set_token_mask(mask);
  masked.select<SoftmaxScore>(SinkhornTopK{});
  auto const padded = masked.chosen();
  RoutingFixture<> half(Rows(logits.begin(), logits.begin() + 20));
  half.routing.mode = Mode::training;
  half.select<SoftmaxScore>(SinkhornTopK{});
  for (std::size_t t = 0; t < 40; ++t) REQUIRE(padded[t] == (t < 20 ? half.chosen()[t] : std::vector<int>{}));

  masked.set_expert_mask({1, 0, 1, 1});
  masked.select<SoftmaxScore>(SinkhornTopK{.k = 4});
  for (std::size_t t = 0; t < 20; ++t) REQUIRE(masked.chosen()[t].size() == 3);

  double const infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  RoutingFixture<> odd({{nan, nan, nan}, {infinity, 0, -infinity}, {-infinity, -infinity, -infinity}, {1, nan, 2}});
  odd.routing.mode = Mode::training;
  odd.select<SoftmaxScore>(SinkhornTopK{.k = 3});
  for (auto const& row : odd.chosen()) REQUIRE(row.size() == 3);

  RoutingFixture<> nobody(Rows{}, 0, 3);
  nobody.routing.mode = Mode::training;
  nobody.select<SoftmaxScore>(SinkhornTopK{});
  REQUIRE(nobody.loads() == std::vector<offset_t>{0, 0, 0});
}

TEST_CASE("Sinkhorn: settings that make no sense") {
  Sizes const sizes{.tokens = 4, .experts = 2};
  REQUIRE_THROWS_AS((SinkhornTopK{.k = 3}.check(sizes)), Error);
  REQUIRE_THROWS_AS((SinkhornTopK{.iterations = 0}.check(sizes)), Error);
  REQUIRE_THROWS_AS((SinkhornTopK{.tolerance = -1}.check(sizes)), Error);
}

} // namespace sinkhorn_top_k_test
