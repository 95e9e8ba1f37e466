// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>
#include <support/scorer_fixture.hpp>

#include <kokomo/error.hpp>
#include <kokomo/router/agreement.hpp>
#include <kokomo/router/cascade.hpp>
#include <kokomo/router/escalate.hpp>
#include <kokomo/router/percentile.hpp>
#include <kokomo/router/pooled_scorer.hpp>
#include <kokomo/router/table_scorer.hpp>
#include <kokomo/router/top_k.hpp>

#include <algorithm>
#include <numeric>

/// Selectors that spend more on some tokens than on others, and scorers that decide for a sequence or a task.

namespace adaptive_test {

using namespace kokomo;
using namespace kokomo::test;

Rows random_logits(std::size_t tokens, std::size_t experts, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  Rows rows(tokens, Row(experts));
  for (auto& row : rows)
    for (double& z : row) z = normal(engine);
  return rows;
}

/// Linear between the neighbours in order.
double percentile(Row values, double tau) {
  std::sort(values.begin(), values.end());
  double const position = tau * double(values.size() - 1);
  auto const lower = std::size_t(position);
  auto const upper = std::min(lower + 1, values.size() - 1);
  return values[lower] + (position - double(lower)) * (values[upper] - values[lower]);
}

std::vector<std::size_t> counts(std::vector<std::vector<int>> const& chosen) {
  std::vector<std::size_t> n;
  for (auto const& c : chosen) n.push_back(c.size());
  return n;
}

TEST_CASE("a percentile of a token's own logits takes a constant number of experts") {
  for (auto const& [experts, expected] :
       {std::pair{8, std::vector<std::size_t>{6, 4, 2}}, std::pair{16, std::vector<std::size_t>{12, 8, 4}}}) {
    auto const logits = random_logits(50, std::size_t(experts), 3);
    for (std::size_t i = 0; i < 3; ++i) {
      float const tau = 0.25f * float(i + 1);
      RoutingFixture<> f(logits), top(logits);
      f.select<IdentityScore>(Percentile<PercentileScope::token>{.tau = tau});
      top.select<IdentityScore>(TopK<>{.k = int(expected[i])});
      REQUIRE(f.chosen() == top.chosen()); // top-k in disguise
    }
  }
  static_assert(Percentile<PercentileScope::token>::causal && !Percentile<PercentileScope::batch>::causal);
}

TEST_CASE("percentiles of the batch and of each expert") {
  auto const logits = random_logits(60, 12, 5);
  for (double const tau : {0.5, 0.75, 0.9}) {
    double const of_batch = percentile(flat(logits), tau);
    Row of_expert;
    for (std::size_t e = 0; e < 12; ++e) {
      Row column;
      for (auto const& row : logits) column.push_back(row[e]);
      of_expert.push_back(percentile(column, tau));
    }
    auto const expected = [&](Row const& z, bool by_expert) {
      std::vector<int> order(z.size());
      std::iota(order.begin(), order.end(), 0);
      auto const above = [&](int e) { return z[std::size_t(e)] - (by_expert ? of_expert[std::size_t(e)] : of_batch); };
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return above(a) > above(b); });
      auto const active = std::size_t(std::count_if(order.begin(), order.end(), [&](int e) { return above(e) > 0; }));
      order.resize(std::max<std::size_t>(active, 1));
      return order;
    };
    RoutingFixture<> batch(logits), expert(logits);
    batch.select<IdentityScore>(Percentile<PercentileScope::batch>{.tau = float(tau)});
    expert.select<IdentityScore>(Percentile<PercentileScope::expert>{.tau = float(tau)});
    auto const by_batch = batch.chosen(), by_expert = expert.chosen();
    for (std::size_t t = 0; t < logits.size(); ++t) {
      REQUIRE(by_batch[t] == expected(logits[t], false));
      REQUIRE(by_expert[t] == expected(logits[t], true));
    }
    auto const n = counts(by_batch);
    REQUIRE(*std::max_element(n.begin(), n.end()) > *std::min_element(n.begin(), n.end())); // dynamic
    if (tau == 0.5) { // no token is near the bound of one: the mean is (1 - tau) E
      double const mean = double(std::accumulate(n.begin(), n.end(), std::size_t(0))) / double(n.size());
      REQUIRE(std::abs(mean - 6) < 0.05);
    }
  }
}

TEST_CASE("percentile: masks, bounds, NaN, no tokens") {
  double const nan = std::numeric_limits<double>::quiet_NaN();
  RoutingFixture<> f({{4, 3, 2, 1}, {100, 100, 100, 100}, {nan, 5, nan, 0}});
  f.set_token_mask({1, 0, 1});
  f.select<IdentityScore>(Percentile<>{.tau = 0.5f}); // of 4 3 2 1 5 0: 2.5
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{0, 1}, {}, {1}});
  f.select<IdentityScore>(Percentile<>{.tau = 1, .at_least = 2, .at_most = 3});
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{0, 1}, {}, {1, 3}});
  f.select<IdentityScore>(Percentile<>{.tau = 0, .at_most = 1});
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{0}, {}, {1}});
  double const infinity = std::numeric_limits<double>::infinity();
  RoutingFixture<> overflowed({{1, 2, infinity}});
  overflowed.select<IdentityScore>(Percentile<>{.tau = 0.5f}); // of 1 and 2: 1.5
  REQUIRE(overflowed.chosen() == std::vector<std::vector<int>>{{2, 1}});
  RoutingFixture<> nobody(Rows{}, 0, 4);
  nobody.select<IdentityScore>(Percentile<>{});
  nobody.select<IdentityScore>(Percentile<PercentileScope::expert>{});
  REQUIRE(nobody.chosen().empty());
}

TEST_CASE("cascade: few experts above the threshold, many below it") {
  auto const logits = random_logits(80, 6, 7);
  auto const probabilities = [](Row const& z) {
    Row p;
    double sum = 0;
    for (double v : z) sum += std::exp(v);
    for (double v : z) p.push_back(std::exp(v) / sum);
    std::sort(p.rbegin(), p.rend());
    return p;
  };
  for (auto const by : {Confidence::margin, Confidence::entropy})
    for (double const threshold : {0.2, 1.2}) {
      RoutingFixture<> f(logits), top(logits);
      f.select<IdentityScore>(Cascade{.few = 1, .many = 3, .by = by, .threshold = float(threshold)});
      top.select<IdentityScore>(TopK<>{.k = 3});
      auto const chosen = f.chosen();
      std::size_t escalated = 0, entries = 0;
      for (std::size_t t = 0; t < logits.size(); ++t) {
        Row const p = probabilities(logits[t]);
        double entropy = 0;
        for (double v : p) entropy -= v * std::log(v);
        bool const sure = by == Confidence::margin ? p[0] - p[1] >= threshold : entropy <= threshold;
        auto best = top.chosen()[t];
        best.resize(sure ? 1 : 3);
        REQUIRE(chosen[t] == best);
        escalated += sure ? 0 : 1, entries += chosen[t].size();
      }
      REQUIRE(entries == 80 + 2 * escalated);
    }
  auto const all = [&](Cascade const& c, std::size_t n) {
    RoutingFixture<> f(logits);
    f.select<IdentityScore>(c);
    for (auto const& chosen : f.chosen()) REQUIRE(chosen.size() == n);
  };
  all({.few = 2, .many = 4, .threshold = 0}, 2);
  all({.few = 2, .many = 4, .threshold = std::numeric_limits<float>::infinity()}, 4);
}

TEST_CASE("agreement: one expert without noise, more of them with more noise") {
  auto const logits = random_logits(300, 8, 9);
  std::size_t last = 300;
  for (float const noise : {0.0f, 0.3f, 1.0f, 5.0f}) {
    RoutingFixture<> f(logits), best(logits);
    f.select<IdentityScore>(Agreement{.probes = 4, .noise = noise, .seed = 3});
    best.select<IdentityScore>(TopK<1>{});
    auto const chosen = f.chosen();
    if (noise == 0) REQUIRE(chosen == best.chosen());
    std::size_t total = 0;
    for (auto c : chosen) {
      total += c.size();
      REQUIRE(c.size() >= 1);
      REQUIRE(c.size() <= 4);
      std::sort(c.begin(), c.end());
      REQUIRE(std::adjacent_find(c.begin(), c.end()) == c.end());
    }
    REQUIRE(total >= last);
    last = total;
  }
  int const n = 4000; // two equal logits: three probes agree with probability 1/4
  RoutingFixture<> f(Rows(n, Row{1, 1, -100}));
  f.select<IdentityScore>(Agreement{.probes = 3, .noise = 1, .seed = 1});
  double two = 0;
  for (auto const& c : f.chosen()) two += c.size() == 2 ? 1.0 / n : 0;
  REQUIRE(std::abs(two - 0.75) < 4 * std::sqrt(0.75 * 0.25 / n)); // four standard deviations
}

TEST_CASE("escalate: the heavy expert above tau") {
  RoutingFixture<> f({{0, 1}, {0, -1}, {0, std::numeric_limits<double>::quiet_NaN()}, {0, 0.1}});
  auto const choose = [&](float tau) {
    f.select<IdentityScore>(Escalate{.tau = tau});
    return f.chosen();
  };
  using Chosen = std::vector<std::vector<int>>;
  REQUIRE(choose(0.6f) == Chosen{{1}, {0}, {0}, {0}}); // sigmoid(1) = 0.73, sigmoid(0.1) = 0.52
  REQUIRE(choose(0.5f) == Chosen{{1}, {0}, {0}, {1}});
  REQUIRE(choose(0) == Chosen{{1}, {1}, {0}, {1}});
  REQUIRE(choose(1) == Chosen{{0}, {0}, {0}, {0}});
  RoutingFixture<> many(random_logits(200, 2, 4));
  std::size_t last = 200; // what escalates, and with it the expected cost, falls in tau
  for (float const tau : {0.0f, 0.2f, 0.4f, 0.6f, 0.8f, 1.0f}) {
    many.select<IdentityScore>(Escalate{.tau = tau});
    std::size_t heavy = 0;
    for (auto const& chosen : many.chosen()) heavy += std::size_t(chosen[0]);
    REQUIRE((heavy <= last && (tau > 0 || heavy == 200) && (tau < 1 || heavy == 0)));
    last = heavy;
  }
}

TEST_CASE("the probability that one of two arms wins") {
  CHECK(std::abs(win_probability(3, 5, 3, 5) - 0.5) < 1e-14);
  CHECK(std::abs(win_probability(8, 4, 5, 7) + win_probability(5, 7, 8, 4) - 1) < 1e-13);
  CHECK(std::abs(win_probability(8, 4, 5, 7) - 0.90081) <
        5e-6); // the closed form's value, which a simulation of 2e5 draws puts at 0.90089
  CHECK(std::abs(win_probability(1, 1, 1, 2) - 2.0 / 3) < 1e-14); // X uniform: the mean of 1 - (1 - X)^2
  // draws of both: a Beta(a, b) number is X / (X + Y) of two gamma ones
  std::mt19937 engine(11);
  int const n = 100000;
  int wins = 0;
  auto const beta = [&](double a, double b) {
    std::gamma_distribution<double> first(a), second(b);
    double const x = first(engine), y = second(engine);
    return x / (x + y);
  };
  for (int i = 0; i < n; ++i) wins += beta(8, 4) > beta(5, 7) ? 1 : 0;
  CHECK(std::abs(double(wins) / n - win_probability(8, 4, 5, 7)) < 0.01); // ten standard deviations
}

TEST_CASE("pooled scorer: all tokens of a sequence share their logits, gradients equal differences") {
  for (auto const pooling : {Pooling::mean, Pooling::flatten}) {
    ScorerFixture<PooledScorer<>> f({.tokens_per_sequence = 3, .pooling = pooling}, 8, 4, 5); // the last one has 2
    auto const logits = f.forward();
    for (std::size_t t = 0; t < 8; ++t) REQUIRE(logits[t] == logits[t / 3 * 3]);
    REQUIRE(logits[0] != logits[3]);
    Row const x = in_double(to_host(f.x)), w = in_double(to_host(f.parameters.weight));
    for (std::size_t t = 0; t < 8; ++t)
      for (std::size_t e = 0; e < 5; ++e) {
        std::size_t const first = t / 3 * 3, last = std::min<std::size_t>(8, first + 3);
        double sum = 0;
        for (std::size_t s = first; s < last; ++s)
          for (std::size_t h = 0; h < 4; ++h)
            sum += pooling == Pooling::mean ? w[e * 4 + h] * x[s * 4 + h] / double(last - first)
                                            : w[e * 12 + (s - first) * 4 + h] * x[s * 4 + h];
        REQUIRE(std::abs(logits[t][e] - sum) < 1e-14);
      }
    check_scorer_gradients(f);
  }
  REQUIRE_THROWS_AS((ScorerFixture<PooledScorer<>>({}, 2, 2, 2)), Error);
}

TEST_CASE("table scorer: a row a task, gradients equal differences") {
  ScorerFixture<TableScorer> f({.rows = 3}, 6, 2, 4);
  OwnedVector<index_t, Exec> ids("ids", 6);
  to_device(std::vector<index_t>{2, 0, 2, 7, -1, 0}, ids);
  f.inputs.row_of_token = ids;
  auto const logits = f.forward();
  auto const table = in_rows(in_double(to_host(f.parameters.table)), 3);
  REQUIRE(logits == Rows{table[2], table[0], table[2], Row(4), Row(4), table[0]});
  check_scorer_gradients(f);
}

TEST_CASE("settings of adaptive selectors") {
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
  CHECK(id(Percentile<>{.tau = 1.5f}) == 106);
  CHECK(id(Percentile<>{.at_least = 0}) == 102);
  CHECK(id(Cascade{.few = 3, .many = 2}) == 102);
  CHECK(id(Cascade{.many = 5}) == 102);
  CHECK(id(Cascade{.threshold = std::numeric_limits<float>::quiet_NaN()}) == 106);
  CHECK(id(Agreement{.probes = 0}) == 102);
  CHECK(id(Agreement{.noise = -1}) == 106);
  CHECK(id(Escalate{.tau = 2}) == 106);
  CHECK(id(Escalate{.light = 1, .heavy = 1}) == 102);
  CHECK(id(TableScorer{.rows = 0}) == 101);
}

} // namespace adaptive_test
