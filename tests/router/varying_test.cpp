// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>

#include <kokomo/error.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/router/positive.hpp>
#include <kokomo/router/top_p.hpp>

#include <algorithm>
#include <numeric>
#include <random>

/// Selectors that take a varying number of experts a token.

namespace varying_test {

using namespace kokomo;
using namespace kokomo::test;

Rows random_logits(std::size_t tokens, std::size_t experts, double spread, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal(0, spread);
  Rows rows(tokens, Row(experts));
  for (auto& row : rows)
    for (double& z : row) z = normal(engine);
  return rows;
}

Row softmax(Row const& z) {
  double const max = *std::max_element(z.begin(), z.end());
  Row p;
  double sum = 0;
  for (double v : z) sum += std::exp(v - max);
  for (double v : z) p.push_back(std::exp(v - max) / sum);
  return p;
}

/// Indices by descending value, ties to the smaller.
std::vector<int> sorted(Row const& values) {
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return values[a] > values[b]; });
  return order;
}

/// The prefix by sorting everything and adding up.
std::vector<int> prefix(Row const& z, TopP const& settings) {
  Row const p = softmax(z);
  auto order = sorted(p);
  std::size_t const most = settings.at_most == 0 ? p.size() : std::size_t(settings.at_most);
  std::size_t count = 0;
  double mass = 0;
  do mass += p[order[count++]];
  while (count < most &&
         (settings.crossing == Crossing::reaches ? mass < double(settings.p) : mass <= double(settings.p)));
  count = std::max(count, std::size_t(settings.at_least));
  order.resize(count);
  return order;
}

TEST_CASE("top-p takes the shortest prefix by mass, with weights that sum to it") {
  for (double const spread : {0.1, 1.0, 4.0})
    for (TopP const settings : {TopP{.p = 0.4f}, TopP{.p = 0.4f, .crossing = Crossing::exceeds}, TopP{.p = 0.9f},
                                TopP{.p = 0.7f, .at_least = 2, .at_most = 4}, TopP{.p = 0, .at_least = 3}}) {
      Rows const logits = random_logits(33, 17, spread, 3);
      RoutingFixture<> f(logits);
      f.select<SoftmaxScore>(settings);
      f.weigh(SoftmaxGate{});
      auto const chosen = f.chosen();
      auto const weights = f.weights();
      for (std::size_t t = 0; t < logits.size(); ++t) {
        REQUIRE(chosen[t] == prefix(logits[t], settings));
        double const mass = std::accumulate(weights[t].begin(), weights[t].end(), 0.0);
        REQUIRE(mass <= 1 + 1e-15 * 17); // rounding of a sum of 17
        if (settings.at_most == 0) REQUIRE(mass >= double(settings.p));
      }
    }
}

TEST_CASE("top-p: more experts for more mass and for flatter logits") {
  Rows const logits = random_logits(20, 12, 2, 5);
  auto const counts = [&](double p, double temperature) {
    Rows scaled = logits;
    for (auto& row : scaled)
      for (double& z : row) z /= temperature;
    RoutingFixture<> f(scaled);
    f.select<SoftmaxScore>(TopP{.p = float(p)});
    std::vector<std::size_t> sizes;
    for (auto const& c : f.chosen()) sizes.push_back(c.size());
    return sizes;
  };
  auto const all_at_most = [](auto const& a, auto const& b) {
    return std::equal(a.begin(), a.end(), b.begin(), std::less_equal<>());
  };
  REQUIRE(all_at_most(counts(0.3, 1), counts(0.5, 1)));
  REQUIRE(all_at_most(counts(0.5, 1), counts(0.99, 1)));
  REQUIRE(all_at_most(counts(0.5, 0.5), counts(0.5, 1)));
  REQUIRE(all_at_most(counts(0.5, 1), counts(0.5, 3)));
}

TEST_CASE("top-p on equal logits: ceil(p E) experts, the first ones, by either rule of crossing") {
  RoutingFixture<> f(Rows{Row(16, 0.25)});
  f.select<SoftmaxScore>(TopP{.p = 0.4f});
  REQUIRE(f.chosen()[0] == std::vector<int>{0, 1, 2, 3, 4, 5, 6}); // ceil(6.4)
  f.select<SoftmaxScore>(TopP{.p = 0.5f});                         // sixteenths are exact: 8 of them reach a half,
  REQUIRE(f.chosen()[0].size() == 8);
  f.select<SoftmaxScore>(TopP{.p = 0.5f, .crossing = Crossing::exceeds}); // and a ninth exceeds it
  REQUIRE(f.chosen()[0].size() == 9);
  f.select<SoftmaxScore>(TopP{.p = 1});
  REQUIRE(f.chosen()[0].size() == 16);
  f.select<SoftmaxScore>(TopP{.p = 2}); // never crosses
  REQUIRE(f.chosen()[0].size() == 16);
}

TEST_CASE("top-p: masks, bias, and rows without a finite logit") {
  double const inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  RoutingFixture<> f({{3, 2, 1, 0}, {3, 2, 1, 0}, {-inf, -inf, -inf, -inf}, {nan, 1, nan, 0}});
  f.set_token_mask({1, 0, 1, 1});
  f.select<SoftmaxScore>(TopP{.p = 0.95f});
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{0, 1, 2}, {}, {0}, {1, 3}});
  f.set_expert_mask({0, 1, 1, 1});
  f.select<SoftmaxScore>(TopP{.p = 0.34f});
  REQUIRE(f.chosen()[0] == std::vector<int>{1, 2, 3}); // probabilities stay those over all: 0.24 + 0.09 + 0.03
  RoutingFixture<> biased({{3, 2, 1, 0}});
  biased.set_bias({-1, 0, 0, 0}); // ranks 0.64 - 1, 0.24, 0.09, 0.03
  biased.select<SoftmaxScore>(TopP{.p = 0.3f});
  REQUIRE(biased.chosen()[0] == std::vector<int>{1, 2}); // 0.24 + 0.09: the mass is without bias
  RoutingFixture<> nobody(Rows{}, 0, 4);
  nobody.select<SoftmaxScore>(TopP{});
  REQUIRE(nobody.chosen().empty());
}

TEST_CASE("positive: every positive logit, best first, and relu as its weight") {
  Rows const logits = random_logits(40, 9, 1, 7);
  RoutingFixture<> f(logits);
  f.select<ReluScore>(Positive{});
  f.weigh(ReluGate{});
  auto const chosen = f.chosen();
  auto const weights = f.weights();
  for (std::size_t t = 0; t < logits.size(); ++t) {
    std::vector<int> expected;
    for (int const e : sorted(logits[t]))
      if (logits[t][std::size_t(e)] > 0) expected.push_back(e);
    REQUIRE(chosen[t] == expected);
    for (std::size_t j = 0; j < expected.size(); ++j) REQUIRE(weights[t][j] == logits[t][std::size_t(expected[j])]);
  }
  f.select<ReluScore>(Positive{.threshold = 0.5f, .at_most = 2});
  for (std::size_t t = 0; t < logits.size(); ++t) {
    auto expected = sorted(logits[t]);
    expected.resize(std::size_t(
        std::count_if(expected.begin(), expected.end(), [&](int e) { return logits[t][std::size_t(e)] > 0.5; })));
    expected.resize(std::min<std::size_t>(expected.size(), 2));
    REQUIRE(f.chosen()[t] == expected);
  }
}

TEST_CASE("positive with a relu gate: gradients equal differences, across the number of experts too") {
  Rows const logits = random_logits(6, 5, 1, 9); // no logit within a step of zero
  Row const of_expert{0.3, -1, 0.7, 2, -0.4};    // what each expert's weight is worth
  auto const value = [&](Rows const& z) {
    RoutingFixture<> f(z);
    f.select<ReluScore>(Positive{});
    f.weigh(ReluGate{});
    double sum = 0;
    for (std::size_t t = 0; t < z.size(); ++t)
      for (std::size_t j = 0; j < f.chosen()[t].size(); ++j)
        sum += f.weights()[t][j] * of_expert[std::size_t(f.chosen()[t][j])];
    return sum;
  };
  RoutingFixture<> f(logits);
  f.select<ReluScore>(Positive{});
  f.weigh(ReluGate{});
  Row d_weights;
  for (auto const& token : f.chosen())
    for (int const e : token) d_weights.push_back(of_expert[std::size_t(e)]);
  auto const d = flat(f.gate_gradient(ReluGate{}, d_weights));
  // linear between its kinks: differences are exact up to rounding, 1e-16 / 1e-5
  REQUIRE(relative_error(d, flat(logit_differences(logits, value))) < 1e-9);
}

TEST_CASE("positive: nobody, NaN, masks") {
  double const nan = std::numeric_limits<double>::quiet_NaN();
  RoutingFixture<> f({{-1, 0, -2}, {nan, 1, 2}, {5, 5, 5}});
  f.set_token_mask({1, 1, 0});
  f.select<ReluScore>(Positive{});
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{}, {2, 1}, {}});
  f.set_expert_mask({1, 1, 0});
  f.select<ReluScore>(Positive{});
  REQUIRE(f.chosen()[1] == std::vector<int>{1});
}

TEST_CASE("bounds of varying selectors") {
  Sizes sizes;
  sizes.experts = 4;
  auto const id = [&](auto const& policy) {
    try {
      policy.check(sizes);
    } catch (Error const& error) {
      return error.id();
    }
    return 0;
  };
  CHECK(id(TopP{.at_least = 0}) == 102);
  CHECK(id(TopP{.at_least = 5}) == 102);
  CHECK(id(TopP{.at_least = 3, .at_most = 2}) == 102);
  CHECK(id(TopP{.p = -0.1f}) == 106);
  CHECK(id(TopP{.p = std::numeric_limits<float>::quiet_NaN()}) == 106);
  CHECK(id(TopP{.at_least = 4, .at_most = 4}) == 0);
  CHECK(id(Positive{.at_most = 5}) == 102);
  CHECK(id(Positive{.at_most = -1}) == 102);
  CHECK(TopP{}.entries_per_token(sizes) == 4);
  CHECK(TopP{.at_most = 2}.entries_per_token(sizes) == 2);
}

} // namespace varying_test
