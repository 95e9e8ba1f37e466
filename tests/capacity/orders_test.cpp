// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>

#include <kokomo/capacity/capacity.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/router/top_2.hpp>
#include <kokomo/router/top_k.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace orders_test {

using namespace kokomo;
using namespace kokomo::test;
using Choice = std::vector<std::vector<int>>;

Rows random_logits(std::size_t tokens, std::size_t experts, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  Rows rows(tokens, Row(experts));
  for (auto& row : rows)
    for (std::size_t e = 0; e < experts; ++e) row[e] = normal(engine) - 0.7 * double(e);
  return rows;
}

struct Queue {
  RoutingFixture<> f;
  Choice chosen;

  explicit Queue(Rows const& logits) : f(logits) {}
  Choice run(int k, Capacity const& capacity, Capacity::Inputs<double, Exec> const& inputs = {}) {
    f.select<SoftmaxScore>(TopK<>{.k = k});
    chosen = f.chosen();
    detail::check_settings(capacity, f.sizes);
    capacity.apply<SoftmaxScore>(f.exec, f.routing, inputs, f.assignment,
                                 f.laid_out<Capacity::Scratch<double, Exec>>(capacity));
    f.group();
    return f.executed();
  }
};

/// Keeps what `before` puts first in each expert's queue of (token, choice), sequence by sequence.
template <class Before>
Choice kept(Choice const& chosen, std::size_t places, std::size_t sequence, Before const& before) {
  Choice result(chosen.size());
  std::vector<std::vector<char>> keep(chosen.size());
  for (std::size_t t = 0; t < chosen.size(); ++t) keep[t].assign(chosen[t].size(), 0);
  for (std::size_t begin = 0; begin < chosen.size(); begin += sequence)
    for (int e = 0; e < 64; ++e) {
      std::vector<std::pair<std::size_t, std::size_t>> queue;
      for (std::size_t t = begin; t < std::min(chosen.size(), begin + sequence); ++t)
        for (std::size_t j = 0; j < chosen[t].size(); ++j)
          if (chosen[t][j] == e) queue.emplace_back(t, j);
      std::stable_sort(queue.begin(), queue.end(), before);
      for (std::size_t i = 0; i < std::min(places, queue.size()); ++i) keep[queue[i].first][queue[i].second] = 1;
    }
  for (std::size_t t = 0; t < chosen.size(); ++t)
    for (std::size_t j = 0; j < chosen[t].size(); ++j)
      if (keep[t][j] != 0) result[t].push_back(chosen[t][j]);
  return result;
}

TEST_CASE("capacity in token order, whatever the choice, and by random numbers") {
  auto const logits = random_logits(40, 5, 1);
  Row priority(200);
  std::mt19937 engine(2);
  for (double& p : priority) p = std::uniform_real_distribution<double>()(engine);
  OwnedMatrix<double, Exec> given("priority", 40, 5);
  to_device(priority, given);
  Capacity::Inputs<double, Exec> inputs;
  inputs.priority = given;
  for (offset_t const sequence : {0, 8, 15})
    for (int const k : {1, 3}) {
      Queue queue(logits);
      std::size_t const n = sequence > 0 ? std::size_t(sequence) : 40;
      auto const first =
          queue.run(k, {.order = CapacityOrder::token_position, .places = 3, .tokens_per_sequence = sequence});
      REQUIRE(first == kept(queue.chosen, 3, n, [](auto const& a, auto const& b) { return a.first < b.first; }));
      Queue random(logits);
      auto const chosen = queue.chosen;
      auto const largest =
          random.run(k, {.order = CapacityOrder::random, .places = 3, .tokens_per_sequence = sequence}, inputs);
      auto const of = [&](auto const& a) { return priority[a.first * 5 + std::size_t(chosen[a.first][a.second])]; };
      REQUIRE(largest == kept(chosen, 3, n, [&](auto const& a, auto const& b) { return of(a) > of(b); }));
    }

  // its own numbers: one of ten equal tokens, each as often as any other, and the same for the same key
  std::vector<int> served(10);
  for (std::uint64_t step = 0; step < 2000; ++step) {
    Queue one(Rows(10, Row{1, 0}));
    one.f.routing.step = step;
    auto const executed = one.run(1, {.order = CapacityOrder::random, .places = 1, .seed = 5});
    for (std::size_t t = 0; t < 10; ++t) served[t] += int(executed[t].size());
    if (step == 0) REQUIRE(one.run(1, {.order = CapacityOrder::random, .places = 1, .seed = 5}) == executed);
  }
  for (int const count : served) CHECK(std::abs(count - 200) < 4 * std::sqrt(2000 * 0.1 * 0.9)); // four deviations
}

TEST_CASE("no token left behind: one place a token, at the next choice with room") {
  for (auto const& [tokens, experts, k, places] :
       std::vector<std::array<int, 4>>{{12, 4, 4, 3}, {12, 4, 4, 2}, {30, 5, 2, 4}, {7, 3, 3, 9}, {1, 1, 1, 1}})
    for (offset_t const sequence : {0, 6}) {
      auto const logits = random_logits(std::size_t(tokens), std::size_t(experts), 3);
      Queue queue(logits);
      auto const executed = queue.run(
          k, {.order = CapacityOrder::no_token_left_behind, .places = places, .tokens_per_sequence = sequence});
      // the definition: rounds over choices, tokens in order
      Choice expected{std::size_t(tokens), std::vector<int>{}};
      offset_t const n = sequence > 0 ? sequence : tokens;
      for (offset_t begin = 0; begin < tokens; begin += n) {
        std::vector<int> taken(std::size_t(experts), 0);
        for (int j = 0; j < k; ++j)
          for (offset_t t = begin; t < std::min<offset_t>(tokens, begin + n); ++t) {
            int const e = queue.chosen[std::size_t(t)][std::size_t(j)];
            if (!expected[std::size_t(t)].empty() || taken[std::size_t(e)] == places) continue;
            expected[std::size_t(t)].push_back(e);
            ++taken[std::size_t(e)];
          }
      }
      REQUIRE(executed == expected);
      auto const loads = queue.f.loads();
      if (k == experts && sequence == 0) // with all experts ranked, as many tokens as there are places
        REQUIRE(std::accumulate(loads.begin(), loads.end(), offset_t(0)) == std::min(tokens, experts * places));
    }
}

TEST_CASE("batch-prioritised routing drops the least probable tokens") {
  auto const logits = random_logits(60, 4, 4);
  Row best;
  for (auto const& row : logits) {
    double sum = 0;
    for (double const z : row) sum += std::exp(z);
    best.push_back(std::exp(*std::max_element(row.begin(), row.end())) / sum);
  }
  Queue queue(logits);
  auto const executed = queue.run(1, {.order = CapacityOrder::token_priority, .places = 9});
  for (int e = 0; e < 4; ++e) {
    double least_kept = 2, most_dropped = 0;
    for (std::size_t t = 0; t < 60; ++t) {
      if (queue.chosen[t][0] != e) continue;
      if (executed[t].empty())
        most_dropped = std::max(most_dropped, best[t]);
      else
        least_kept = std::min(least_kept, best[t]);
    }
    CHECK(most_dropped <= least_kept);
  }
  for (auto const order : {CapacityOrder::token_priority, CapacityOrder::token_position, CapacityOrder::random})
    REQUIRE(Queue(logits).run(2, {.order = order, .places = 60}) == Queue(logits).run(2, {.places = 60}));
}

TEST_CASE("places: rounded either way, another factor in inference, fewer for experts without weights") {
  Sizes sizes{.tokens = 10, .experts = 4};
  sizes.weighted = 4, sizes.per_token = 1;
  auto const limit = [&](Capacity const& c, Mode mode = Mode::training, bool weighted = true) {
    detail::check_settings(c, sizes);
    return c.limit(sizes, mode, weighted);
  };
  // tensorflow/mesh: max(4, int(10 * 1.25 / 4)) in training and int(10 * 2 / 4) in evaluation
  Capacity const mesh{.factor = 1.25, .minimum = 4, .inference_factor = 2, .rounding = CapacityRounding::down};
  REQUIRE(limit(mesh) == 4); // 3.125
  REQUIRE(limit(mesh, Mode::inference) == 5);
  REQUIRE(limit({.factor = 1.25}) == 4);
  REQUIRE(limit({.factor = 1.25, .rounding = CapacityRounding::down}) == 3);
  REQUIRE(limit({.fraction = 0.35, .rounding = CapacityRounding::down}) == 3);
  REQUIRE(limit({.factor = 0.1, .rounding = CapacityRounding::down}) == 0);
  // MoE++: 3 experts with weights and 1 without, tau = 1/3: 12 tokens fall into 3/3 + 1 shares of 6
  sizes.tokens = 12, sizes.weighted = 3;
  Capacity const hetero{.factor = 1, .unweighted = 1.0 / 3};
  REQUIRE(limit(hetero) == 2);
  REQUIRE(limit(hetero, Mode::training, false) == 6);
  REQUIRE(limit({.factor = 1}) == limit({.factor = 1}, Mode::training, false));

  Queue queue(Rows(12, Row{0, 0, 0, 5})); // all want the expert without weights
  queue.f.sizes.weighted = 3;
  auto const executed = queue.run(1, hetero);
  for (std::size_t t = 0; t < 12; ++t) REQUIRE(executed[t].size() == (t < 6 ? 1 : 0));
  Queue inference(Rows(12, Row{0, 0, 0, 5}));
  inference.f.routing.mode = Mode::inference;
  REQUIRE(inference.run(1, {.factor = 1, .inference_factor = 1e9})[11].size() == 1);
}

TEST_CASE("capacity: later tokens decide, but for fixed places in the order of tokens") {
  auto const logits = random_logits(20, 3, 9);
  auto changed = logits;
  changed.back() = {-9, 9, -9}; // certain of an expert that many others want
  for (auto const& [order, k] : {std::pair(CapacityOrder::token_position, 2), std::pair(CapacityOrder::position, 2),
                                 std::pair(CapacityOrder::score, 2), std::pair(CapacityOrder::token_priority, 2)}) {
    Capacity const capacity{.order = order, .places = 8};
    auto const before = Queue(logits).run(k, capacity), after = Queue(changed).run(k, capacity);
    INFO(int(order));
    REQUIRE(std::equal(before.begin(), before.end() - 1, after.begin()) == capacity.causal_in(Mode::training));
  }
  REQUIRE_FALSE(
      Capacity{.order = CapacityOrder::token_position, .factor = 1}.causal_in(Mode::inference)); // counts them
}

TEST_CASE("devices share a queue: the entries of least affinity are dropped, whichever of its experts they chose") {
  auto const logits = random_logits(40, 6, 8);
  for (int const k : {1, 3})
    for (double const factor : {0.5, 1.0, 4.0}) {
      Queue queue(logits);
      auto const executed = queue.run(k, {.order = CapacityOrder::score, .factor = factor, .devices = 3});
      auto const places = std::size_t(std::ceil(factor * 40 * k / 3));
      Choice expected(40);
      for (int device = 0; device < 3; ++device) {
        std::vector<std::pair<double, std::pair<std::size_t, int>>> entries;
        for (std::size_t t = 0; t < 40; ++t) {
          double sum = 0;
          for (double const z : logits[t]) sum += std::exp(z);
          for (int const e : queue.chosen[t])
            if (e / 2 == device) entries.push_back({std::exp(logits[t][std::size_t(e)]) / sum, {t, e}});
        }
        std::stable_sort(entries.begin(), entries.end(),
                         [](auto const& a, auto const& b) { return a.first > b.first; });
        entries.resize(std::min(places, entries.size()));
        for (auto const& entry : entries) expected[entry.second.first].push_back(entry.second.second);
      }
      auto sorted = executed;
      for (auto* const choice : {&sorted, &expected})
        for (auto& row : *choice) std::sort(row.begin(), row.end());
      REQUIRE(sorted == expected);
    }
  Sizes const sizes{.experts = 6};
  REQUIRE_THROWS_AS((Capacity{.factor = 1, .devices = 4}.check(sizes)), Error);
  REQUIRE_THROWS_AS((Capacity{.factor = 1, .tokens_per_sequence = 4, .devices = 3}.check(sizes)), Error);
  REQUIRE_THROWS_AS((Capacity{.factor = 1, .unweighted = 0}.check(sizes)), Error);
}

TEST_CASE("Switch: of equal tokens the first C, GShard: no second choice displaces a first") {
  Choice first(9);
  for (std::size_t t = 0; t < 4; ++t) first[t] = {1};
  REQUIRE(Queue(Rows(9, Row{0, 5, 0})).run(1, {.places = 4}) == first);

  auto const logits = random_logits(50, 4, 5);
  Queue queue(logits);
  auto const executed = queue.run(2, {.places = 8});
  std::vector<int> firsts(4);
  for (auto const& row : queue.chosen) ++firsts[std::size_t(row[0])];
  for (std::size_t t = 0; t < 50; ++t)
    if (queue.chosen[t].size() == 2 && std::count(executed[t].begin(), executed[t].end(), queue.chosen[t][1]) > 0)
      REQUIRE(firsts[std::size_t(queue.chosen[t][1])] < 8); // only where firsts left room
}

TEST_CASE("GShard's second expert by a threshold, certain or by chance") {
  // p = 0.6, 0.25, 0.1, 0.05
  Row const z{std::log(0.6), std::log(0.25), std::log(0.1), std::log(0.05)};
  auto const share = [&](Top2 const& selector) {
    RoutingFixture<> f(Rows(4000, z));
    f.select<SoftmaxScore>(selector);
    double count = 0;
    for (auto const& row : f.chosen()) count += row.size() == 2 ? 1 : 0;
    return count / 4000;
  };
  CHECK(share({.second = SecondExpert::threshold, .threshold = 0.2f}) == 1);
  CHECK(share({.second = SecondExpert::threshold, .threshold = 0.3f}) == 0);
  CHECK(share({.second = SecondExpert::threshold, .normalized_threshold = true, .threshold = 0.29f}) == 1); // 0.294
  CHECK(share({.second = SecondExpert::random, .threshold = 0.2f}) == 1); // min(1, 0.25 / 0.2)
  double const half = share({.second = SecondExpert::random, .threshold = 0.5f, .seed = 3});
  CHECK(std::abs(half - 0.5) < 4 * std::sqrt(0.25 / 4000)); // w2 = threshold / 2: half of them
  REQUIRE_THROWS_AS((Top2{.threshold = 0}.check({.experts = 2})), Error);
}

} // namespace orders_test
