// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>
#include <support/scorer_fixture.hpp>

#include <kokomo/error.hpp>
#include <kokomo/router/layer_norm_scorer.hpp>
#include <kokomo/router/sum_scorer.hpp>
#include <kokomo/router/table_scorer.hpp>
#include <kokomo/router/top_k.hpp>
#include <kokomo/router/two_choice_hash.hpp>

#include <algorithm>
#include <numeric>

namespace sum_scorer_test {

using namespace kokomo;
using namespace kokomo::test;

TEST_CASE("layer norm scorer equals the formula, gradients equal differences") {
  ScorerFixture<LayerNormScorer> f({}, 5, 6, 3);
  Row const x = in_double(to_host(f.x)), w = in_double(to_host(f.parameters.weight));
  Row expected;
  for (std::size_t t = 0; t < 5; ++t) {
    double mean = 0, variance = 0;
    for (std::size_t h = 0; h < 6; ++h) mean += x[t * 6 + h] / 6;
    for (std::size_t h = 0; h < 6; ++h) variance += (x[t * 6 + h] - mean) * (x[t * 6 + h] - mean) / 6;
    for (std::size_t e = 0; e < 3; ++e) {
      double sum = 0;
      for (std::size_t h = 0; h < 6; ++h) sum += w[e * 6 + h] * (x[t * 6 + h] - mean);
      expected.push_back(sum / std::sqrt(variance + double(1e-5f)) / std::sqrt(6.0));
    }
  }
  REQUIRE(relative_error(flat(f.forward()), expected) < 1e-14);
  check_scorer_gradients(f);
  ScorerFixture<LayerNormScorer> shaped({.linear = {.bias = true, .softcap = 1}}, 4, 3, 2);
  check_scorer_gradients(shaped);
  REQUIRE_THROWS_AS((ScorerFixture<LayerNormScorer>({.epsilon = 0}, 1, 1, 1)), Error);
}

using Glider = SumScorer<LayerNormScorer, TableScorer>;

template <class F> OwnedVector<index_t, Exec> set_tasks(F& f, std::vector<index_t> const& tasks) {
  OwnedVector<index_t, Exec> ids("ids", tasks.size());
  to_device(tasks, ids);
  f.inputs.second.row_of_token = ids;
  return ids;
}

TEST_CASE("sum of scorers: both parts, a scale, gradients of both") {
  ScorerFixture<Glider> f({.second = {.rows = 2}, .scale = 2.5f}, 5, 4, 3);
  auto const ids = set_tasks(f, {0, 1, 1, 0, 1});
  auto const sum = f.forward();
  ScorerFixture<LayerNormScorer> first({}, 5, 4, 3);
  to_device(to_host(f.x), first.x);
  to_device(to_host(f.parameters.first.weight), first.parameters.weight);
  auto const own = first.forward();
  auto const table = in_double(to_host(f.parameters.second.table));
  for (std::size_t t = 0; t < 5; ++t)
    for (std::size_t e = 0; e < 3; ++e)
      REQUIRE(std::abs(sum[t][e] - own[t][e] - 2.5 * table[std::size_t(to_host(ids)[t]) * 3 + e]) < 1e-14);
  check_scorer_gradients(f);
  f.scorer.scale = 0;
  REQUIRE(f.forward() == own); // the local decision alone
}

TEST_CASE("sum of scorers: one more expert leaves the logits of the others as they were") {
  ScorerFixture<Glider> three({.second = {.rows = 2}, .scale = 3}, 5, 4, 3),
      four({.second = {.rows = 2}, .scale = 3}, 5, 4, 4);
  auto const ids = set_tasks(three, {0, 1, 1, 0, 1});
  four.inputs.second.row_of_token = ids;
  to_device(to_host(three.x), four.x);
  auto weight = to_host(three.parameters.first.weight);
  weight.resize(4 * 4, 0.3);
  to_device(weight, four.parameters.first.weight);
  auto const table = to_host(three.parameters.second.table);
  to_device(Row{table[0], table[1], table[2], 9, table[3], table[4], table[5], 9}, four.parameters.second.table);
  auto const before = three.forward(), after = four.forward();
  for (std::size_t t = 0; t < 5; ++t)
    for (std::size_t e = 0; e < 3; ++e) REQUIRE(after[t][e] == before[t][e]);
}

TEST_CASE("sum of scorers: from a closed-form scale on, the request decides") {
  ScorerFixture<Glider> f({.scale = 1}, 1, 4, 2);
  auto const ids = set_tasks(f, {0});
  to_device(Row{0.9, 0.4}, f.parameters.second.table);
  f.scorer.scale = 0;
  auto const local = f.forward()[0];
  std::size_t const a = local[0] < local[1] ? 0 : 1; // the local decision is for the other one
  to_device(a == 0 ? Row{0.9, 0.4} : Row{0.4, 0.9}, f.parameters.second.table);
  double const turning = (local[1 - a] - local[a]) / 0.5;
  f.scorer.scale = float(turning * 1.001);
  REQUIRE(f.forward()[0][a] > f.forward()[0][1 - a]);
  f.scorer.scale = float(turning * 0.999);
  REQUIRE(f.forward()[0][a] < f.forward()[0][1 - a]);
}

TEST_CASE("two-choice hash: its own two candidates, the lighter one, far more even than one choice") {
  int const n = 10000;
  std::vector<offset_t> ids(n);
  std::iota(ids.begin(), ids.end(), offset_t(1000));
  OwnedVector<offset_t, Exec> device("ids", n);
  to_device(ids, device);
  RoutingFixture<> f(Rows(n, Row(64)));
  f.select<IdentityScore>(TwoChoiceHash{.seed = 3}, Nothing{}, {.token_ids = device});
  auto const chosen = f.chosen();
  std::vector<int> loads(64), single(64);
  for (int t = 0; t < n; ++t) {
    int const first = detail::hashed_expert(3, 0, ids[std::size_t(t)], 64);
    int second = detail::hashed_expert(3, 1, ids[std::size_t(t)], 64);
    if (second == first) second = (first + 1) % 64;
    int const expected = loads[std::size_t(second)] < loads[std::size_t(first)] ? second : first;
    REQUIRE(chosen[std::size_t(t)] == std::vector<int>{expected});
    ++loads[std::size_t(expected)], ++single[std::size_t(first)];
  }
  int const most = *std::max_element(loads.begin(), loads.end()),
            most_single = *std::max_element(single.begin(), single.end());
  CHECK(most <= 160);       // mean 156.25: log2 log2 64 = 2.6 above it
  CHECK(most_single > 170); // one choice: about two standard deviations, 12.5 each, above
}

TEST_CASE("two-choice hash: as many experts as tokens, few in the fullest") {
  int const n = 1000;
  OwnedVector<offset_t, Exec> ids("ids", n);
  std::vector<offset_t> host(n);
  std::iota(host.begin(), host.end(), offset_t(0));
  to_device(host, ids);
  RoutingFixture<float> f(Rows(n, Row(n)));
  f.select<IdentityScore>(TwoChoiceHash{.seed = 7}, Nothing{}, {.token_ids = ids});
  auto const loads = f.loads();
  std::vector<offset_t> single(n);
  for (int t = 0; t < n; ++t) ++single[std::size_t(detail::hashed_expert(7, 0, t, n))];
  // Of 1000 balls in as many bins the fullest has 2 to 4 with two choices and 5 to 7 with one (log log n, log n / log log n).
  auto const two = *std::max_element(loads.begin(), loads.end()), one = *std::max_element(single.begin(), single.end());
  CHECK((two >= 2 && two <= 4));
  CHECK((one >= 5 && one <= 8));
}

TEST_CASE("two-choice hash: an expert that a mask excludes is nobody's second choice") {
  OwnedVector<offset_t, Exec> ids("ids", 40);
  std::vector<offset_t> host(40);
  std::iota(host.begin(), host.end(), offset_t(0));
  to_device(host, ids);
  RoutingFixture<> f(Rows(40, Row(2)));
  f.set_expert_mask({0, 1});
  f.select<IdentityScore>(TwoChoiceHash{}, Nothing{}, {.token_ids = ids});
  REQUIRE(f.loads() == std::vector<offset_t>{0, 40});
}

TEST_CASE("two-choice hash: masks, one expert, no tokens") {
  OwnedVector<offset_t, Exec> ids("ids", 3);
  to_device(std::vector<offset_t>{5, -7, 5}, ids);
  RoutingFixture<> f(Rows(3, Row(1)));
  f.set_token_mask({1, 0, 1});
  f.select<IdentityScore>(TwoChoiceHash{}, Nothing{}, {.token_ids = ids});
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{0}, {}, {0}});
  RoutingFixture<> nobody(Rows{}, 0, 4);
  OwnedVector<offset_t, Exec> none_at_all("ids", 0);
  nobody.select<IdentityScore>(TwoChoiceHash{}, Nothing{}, {.token_ids = none_at_all});
  REQUIRE(nobody.chosen().empty());
}

TEST_CASE("hash tables: balanced by frequency, and random") {
  std::vector<double> frequencies; // 1 / rank
  for (int i = 1; i <= 500; ++i) frequencies.push_back(1.0 / i);
  auto const load = [&](std::vector<index_t> const& table) {
    Row sums(8);
    for (std::size_t id = 0; id < table.size(); ++id) sums.at(std::size_t(table[id])) += frequencies[id];
    return *std::max_element(sums.begin(), sums.end()) / *std::min_element(sums.begin(), sums.end());
  };
  auto const balanced = balanced_hash_table(frequencies, 8), random = random_hash_table(500, 8, 1);
  CHECK(load(balanced) < 1.3); // the most frequent id alone has 1 of 6.8 / 8 = 0.85 on average
  CHECK(load(balanced) < load(random));
  CHECK(random == random_hash_table(500, 8, 1));
  CHECK(random != random_hash_table(500, 8, 2));
  std::vector<double> const equal(64, 1.0);
  frequencies = equal;
  CHECK(load(balanced_hash_table(equal, 8)) == 1);
}

} // namespace sum_scorer_test
