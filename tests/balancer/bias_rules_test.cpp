// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/selection_bias.hpp>

#include <algorithm>
#include <numeric>
#include <random>

namespace bias_rules_test {

using namespace kokomo;
using namespace kokomo::test;

/// A router of fixed logits under loss-free balancing: score = logit, k experts a token.
struct Balanced {
  SelectionBias policy;
  Batch batch;
  RoutingFixture<> f = [this] {
    RoutingFixture<> fixture(batch.logits);
    if (batch.weighted > 0) fixture.sizes.weighted = batch.weighted;
    fixture.routing.mode = batch.mode;
    return fixture;
  }();
  state_t<SelectionBias, double, Exec> state = f.state_of(policy);

  void forward() {
    f.bias = state.bias;
    f.select<IdentityScore>(TopK<>{.k = batch.k});
    f.observe(policy, state, Nothing{});
  }
  void step() {
    policy.step<double>(f.exec, state);
    f.exec.fence();
  }
  Row bias() const { return to_host(state.bias); }
  std::vector<offset_t> counts() const { return to_host(state.counts); }
  void set_counts(std::vector<offset_t> const& values) { to_device(values, state.counts); }
  double max_violation() const {
    auto const loads = f.loads();
    double const mean = double(batch.logits.size()) * batch.k / double(loads.size());
    return double(*std::max_element(loads.begin(), loads.end())) / mean - 1;
  }
};

Balanced with_counts(SelectionBias const& policy, std::vector<offset_t> const& counts) {
  Balanced b{.policy = policy, .batch = {.logits = Rows(1, Row(counts.size(), 0.0))}};
  b.set_counts(counts);
  return b;
}
double sum(Row const& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

TEST_CASE("bias rules, by hand") {
  // counts {6, 2, 1, 0, 1}: mean 2
  auto const after = [](SelectionBias policy) {
    policy.rate = 0.5f;
    auto b = with_counts(policy, {6, 2, 1, 0, 1});
    b.step();
    REQUIRE(b.counts() == std::vector<offset_t>(5, 0));
    return b.bias();
  };
  REQUIRE(after({.update = BiasUpdate::sign}) == Row{-0.5, 0, 0.5, 0.5, 0.5});
  REQUIRE(after({.update = BiasUpdate::proportional}) == Row{-1, 0, 0.25, 0.5, 0.25});
  REQUIRE(after({.update = BiasUpdate::clipped, .limit = 0.75f}) == Row{-0.375, 0, 0.25, 0.375, 0.25});
  REQUIRE(distance(after({.update = BiasUpdate::share}), {-0.2, 0, 0.05, 0.1, 0.05}) <= 1e-16);
  REQUIRE(distance(after({.update = BiasUpdate::sign, .recenter = true}), {-0.7, -0.2, 0.3, 0.3, 0.3}) <= 1e-15);
}

TEST_CASE("bias schedules: constant, 1/n, 1/sqrt(n), and none after so many steps") {
  auto const steps = [](SelectionBias policy) {
    policy.rate = 1;
    auto b = with_counts(policy, {2, 0});
    Row sizes;
    for (int n = 0; n < 4; ++n) {
      double const before = b.bias()[1];
      b.set_counts({2, 0});
      b.step();
      sizes.push_back(b.bias()[1] - before);
    }
    return sizes;
  };
  REQUIRE(steps({}) == Row{1, 1, 1, 1});
  REQUIRE(distance(steps({.schedule = BiasSchedule::inverse}), {1, 0.5, 1.0 / 3, 0.25}) <= 1e-15);
  REQUIRE(distance(steps({.schedule = BiasSchedule::inverse_sqrt}), {1, std::sqrt(0.5), std::sqrt(1.0 / 3), 0.5}) <=
          1e-15);
  REQUIRE(steps({.stop_after = 2}) == Row{1, 1, 0, 0});
}

TEST_CASE("a step without any count is none: neither biases nor the schedule move") {
  for (auto const update : {BiasUpdate::sign, BiasUpdate::proportional, BiasUpdate::clipped, BiasUpdate::share}) {
    auto b = with_counts({.rate = 1, .update = update, .schedule = BiasSchedule::inverse}, {0, 0, 0});
    b.step();
    REQUIRE(b.bias() == Row(3, 0.0));
    REQUIRE(to_host(b.state.steps) == std::vector<offset_t>{0});
  }
}

TEST_CASE("a skipped optimiser step: counts are forgotten, biases stay") {
  auto b = with_counts({.rate = 1}, {5, 1});
  b.policy.skip(b.f.exec, b.state);
  b.step();
  REQUIRE(b.bias() == Row{0, 0});
}

TEST_CASE("inference counts nothing") {
  Balanced b{.policy = {}, .batch = {.logits = random_logits(5, 3), .mode = Mode::inference}};
  b.forward();
  REQUIRE(b.counts() == std::vector<offset_t>(3, 0));
}

/// Scores of 8 experts, of which later ones are better by an offset: 200 tokens, top-2.
Batch skewed() {
  Batch batch{.logits = random_logits(200, 8, 5), .k = 2};
  for (auto& row : batch.logits)
    for (std::size_t e = 0; e < 8; ++e) row[e] = row[e] / 4 + 0.2 * double(e); // in (-0.5, 0.5), and the offset
  return batch;
}

TEST_CASE("every rule evens out a skewed load, proportional ones conserve the sum, sign does not") {
  struct Case {
    SelectionBias policy;
    bool conserves;
  };
  for (auto const& [policy, conserves] :
       {Case{{.rate = 5e-3f, .update = BiasUpdate::sign}, false},
        Case{{.rate = 2e-2f, .update = BiasUpdate::proportional}, true},
        Case{{.rate = 2e-2f, .update = BiasUpdate::clipped, .limit = 0.5f}, false},
        Case{{.rate = 0.16f, .update = BiasUpdate::share}, true},
        Case{{.rate = 0.1f, .update = BiasUpdate::sign, .schedule = BiasSchedule::inverse_sqrt}, false},
        Case{{.rate = 1, .update = BiasUpdate::proportional, .schedule = BiasSchedule::inverse}, true}}) {
    Balanced b{.policy = policy, .batch = skewed()};
    b.forward();
    REQUIRE(b.max_violation() > 1);
    for (int n = 0; n < 400; ++n) {
      b.step();
      b.forward();
    }
    // the same tokens again and again: the optimum is exact balance, a constant step circles around it
    INFO(int(policy.update) << " " << int(policy.schedule) << ": " << b.max_violation());
    REQUIRE(b.max_violation() < 0.15);
    if (conserves) REQUIRE(std::abs(sum(b.bias())) <= 1e-12); // 400 steps of 8 additions of numbers below 1
    if (policy.update == BiasUpdate::sign) REQUIRE(std::abs(sum(b.bias())) > 1e-3);
  }
}

TEST_CASE(
    "fresh scores each step: every rule comes down to what ideal balance of random tokens shows, and no further") {
  // E = 8, k = 2, T = 128: the load of an expert deviates by sqrt(T k / E (1 - k / E)), the largest of 8 normals is 1.4236
  std::size_t const experts = 8, tokens = 128;
  double const floor = 1.4236 * std::sqrt((1 - 2.0 / 8) * 8 / (2.0 * 128));
  auto const mean_violation = [&](SelectionBias const& policy) {
    Balanced b{.policy = policy, .batch = {.logits = Rows(tokens, Row(experts)), .k = 2}};
    std::mt19937 engine(3);
    std::uniform_real_distribution<double> uniform(-0.5, 0.5);
    double mean = 0;
    int const steps = 400, last = 150;
    for (int n = 0; n < steps; ++n) {
      for (auto& row : b.batch.logits)
        for (std::size_t e = 0; e < experts; ++e) row[e] = uniform(engine) + 0.1 * double(e); // offset experts
      to_device(flat(b.batch.logits), b.f.logits);
      b.forward();
      b.step();
      if (n >= steps - last) mean += b.max_violation() / last;
    }
    return mean;
  };
  CHECK(mean_violation({.rate = 0}) > 1);
  for (auto const& policy :
       {SelectionBias{.rate = 5e-3f}, SelectionBias{.rate = 5e-3f, .recenter = true},
        SelectionBias{.rate = 1e-2f, .update = BiasUpdate::proportional},
        SelectionBias{.rate = 1e-2f, .update = BiasUpdate::clipped, .limit = 0.5f},
        SelectionBias{.rate = 0.08f, .update = BiasUpdate::share},
        SelectionBias{.rate = 0.05f, .update = BiasUpdate::sign, .schedule = BiasSchedule::inverse_sqrt},
        SelectionBias{.rate = 0.5f, .update = BiasUpdate::proportional, .schedule = BiasSchedule::inverse}}) {
    double const violation = mean_violation(policy);
    INFO(int(policy.update) << " " << int(policy.schedule) << ": " << violation << ", ideal " << floor);
    CHECK(violation > 0.9 * floor);
    CHECK(violation < 1.3 * floor); // biases move with a part of each batch's noise
  }
}

TEST_CASE("recentred sign biases differ from plain ones by a constant, which top-k takes no notice of") {
  Balanced plain{.policy = {.rate = 0.01f}, .batch = skewed()};
  Balanced centred{.policy = {.rate = 0.01f, .recenter = true}, .batch = skewed()};
  for (int n = 0; n < 60; ++n) {
    plain.forward(), centred.forward();
    REQUIRE(plain.f.chosen() == centred.f.chosen());
    plain.step(), centred.step();
  }
  REQUIRE(std::abs(sum(centred.bias())) <= 1e-13);
  auto shifted = plain.bias();
  for (auto& b : shifted) b -= sum(plain.bias()) / 8;
  REQUIRE(distance(shifted, centred.bias()) <= 1e-12);
}

/// sum over tokens of the k best of score + b, less mean load times the sum of b: what the update descends.
double dual(Batch const& batch, Row const& bias) {
  double value = 0;
  for (auto const& row : batch.logits) {
    Row ranks = row;
    for (std::size_t e = 0; e < row.size(); ++e) ranks[e] += bias[e];
    for (auto const e : best(ranks, batch.k)) value += ranks[e];
  }
  return value - double(batch.logits.size()) * batch.k / double(bias.size()) * sum(bias);
}

TEST_CASE("the update is subgradient descent on the dual: its minimum is the best balanced assignment") {
  Batch const batch{.logits = random_logits(6, 3, 9), .k = 1};
  std::vector<std::size_t> experts{0, 0, 1, 1, 2, 2}; // two tokens each, over all arrangements
  double optimum = -1e9;
  do {
    double value = 0;
    for (std::size_t t = 0; t < 6; ++t) value += batch.logits[t][experts[t]];
    optimum = std::max(optimum, value);
  } while (std::next_permutation(experts.begin(), experts.end()));

  // share has u_n (L - c) / T: with rate 6 * 0.2 it is 0.2 / n (L - c)
  Balanced b{.policy = {.rate = 6 * 0.4f, .update = BiasUpdate::share, .schedule = BiasSchedule::inverse},
             .batch = batch};
  double const at_first = dual(batch, b.bias());
  double least = at_first;
  for (int n = 0; n < 3000; ++n) {
    b.forward();
    b.step();
    least = std::min(least, dual(batch, b.bias()));
  }
  REQUIRE(at_first > optimum + 0.1);
  REQUIRE(least >= optimum - 1e-12);           // weak duality
  REQUIRE(least <= optimum + 2e-3 * at_first); // steps of 1/n end within their last size of it
}

TEST_CASE("after one update a token moves only from a more to a less loaded expert, two experts") {
  Batch const batch{.logits = random_logits(40, 2, 3), .k = 1};
  for (auto const update : {BiasUpdate::sign, BiasUpdate::proportional, BiasUpdate::share}) {
    Balanced b{.policy = {.rate = 0.05f, .update = update}, .batch = batch};
    b.forward();
    auto const before = b.f.chosen();
    auto const loads = b.f.loads();
    b.step();
    b.forward();
    for (std::size_t t = 0; t < 40; ++t)
      if (b.f.chosen()[t] != before[t])
        REQUIRE(loads[std::size_t(before[t][0])] > loads[std::size_t(b.f.chosen()[t][0])]);
  }
}

TEST_CASE("LongCat's budget: real picks come to their share, experts without weights keep their bias") {
  // 6 experts with weights, 3 without; 4 picks a token, of which 2.5 shall be real
  Batch batch{.logits = random_logits(300, 9, 21), .k = 4};
  for (auto& row : batch.logits)
    for (std::size_t e = 0; e < 9; ++e) row[e] = row[e] / 4 + (e < 6 ? 0.1 * double(e) : 0.9);
  batch.weighted = 6;
  Balanced b{.policy = longcat_bias(0.3f, 2.5f, 4), .batch = batch};
  auto const real_picks = [&] {
    auto const loads = b.f.loads();
    return double(std::accumulate(loads.begin(), loads.begin() + 6, offset_t(0))) / 300;
  };
  b.forward();
  REQUIRE(std::abs(real_picks() - 2.5) > 0.5);
  double mean = 0;
  for (int n = 0; n < 400; ++n) {
    b.step();
    b.forward();
    if (n >= 300) mean += real_picks() / 100;
  }
  REQUIRE(mean == Approx(2.5).epsilon(0.05));
  for (std::size_t e = 6; e < 9; ++e) REQUIRE(b.bias()[e] == 0);
  auto const loads = b.f.loads();
  for (std::size_t e = 0; e < 6; ++e) REQUIRE(std::abs(double(loads[e]) - 125) < 20); // 300 * 2.5 / 6
}

TEST_CASE("bias settings out of range") {
  Sizes sizes;
  sizes.experts = sizes.weighted = 6;
  for (auto const& policy :
       {SelectionBias{.limit = 0}, SelectionBias{.stop_after = -1}, SelectionBias{.real_share = 0.5f},
        SelectionBias{.real_share = 2}, SelectionBias{.rate = std::nanf("")}})
    REQUIRE_THROWS_AS(policy.check(sizes), Error);
  sizes.weighted = 4;
  SelectionBias{.real_share = 0.5f}.check(sizes);
  REQUIRE_THROWS_AS((SelectionBias{.recenter = true, .real_share = 0.5f}.check(sizes)), Error);
}

} // namespace bias_rules_test
