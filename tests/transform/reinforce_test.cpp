// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/router/given.hpp>
#include <kokomo/transform/cost_reward.hpp>
#include <kokomo/transform/reinforce.hpp>

#include <numeric>

namespace reinforce_test {

using namespace kokomo;
using namespace kokomo::test;

TEST_CASE("leave one out: deviations from the others' mean over M, which sum to zero") {
  Row const losses{3, 1, 2, 6};
  auto const advantages = leave_one_out(losses);
  for (std::size_t m = 0; m < 4; ++m) {
    double others = 0;
    for (std::size_t i = 0; i < 4; ++i) others += i == m ? 0 : losses[i] / 3;
    REQUIRE(advantages[m] == Approx((losses[m] - others) / 4).epsilon(1e-14));
  }
  REQUIRE(leave_one_out(Row{2, 2}) == Row{0, 0});
  REQUIRE_THROWS_AS(leave_one_out(Row{1}), Error);
}

/// A token's choice of experts, given, under the logits z.
struct Draw {
  RoutingFixture<> f;
  ScoreFunction<Exec> policy{OwnedVector<double, Exec>("advantage", 1)};

  Draw(Row const& z, std::vector<index_t> const& experts) : f(Rows{z}) {
    OwnedMatrix<index_t, Exec> given("given", 1, experts.size());
    to_device(experts, given);
    Given::Inputs<double, Exec> inputs;
    inputs.experts = given;
    Given const selector{.k = int(experts.size())};
    f.select<IdentityScore>(selector, f.state_of(selector), inputs);
  }
  double probability() {
    OwnedVector<double, Exec> out("log q", 1);
    draw_log_probability<double, Exec>(f.exec, f.routing, f.assignment, Vector<double, Exec>(out));
    f.exec.fence();
    return std::exp(to_host(out)[0]);
  }
  Row gradient(double advantage) {
    to_device(Row{advantage}, policy.advantage);
    policy.check(f.sizes);
    return f.loss_gradient(policy, f.saved_of(policy))[0];
  }
};

std::vector<std::vector<index_t>> ordered_pairs(int n) {
  std::vector<std::vector<index_t>> pairs;
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j)
      if (i != j) pairs.push_back({i, j});
  return pairs;
}

TEST_CASE(
    "probabilities of all ordered draws sum to one, the estimator is unbiased, by enumeration of n = 4, k = 2, M = 2") {
  Row const z{0.3, -1, 0.8, 0.1};
  auto const loss_of_draw = [](std::vector<index_t> const& draw) { // any function of the draw, order included
    return 1.5 * draw[0] - 0.7 * draw[1] + 0.3 * draw[0] * draw[1];
  };
  auto const draws = ordered_pairs(4);
  double sum = 0;
  auto const expected_loss = [&](Row const& logits) {
    double mean = 0;
    for (auto const& draw : draws) mean += Draw(logits, draw).probability() * loss_of_draw(draw);
    return mean;
  };
  Row estimate(4, 0.0);
  std::vector<double> probability;
  std::vector<Row> unit; // gradients of log Q
  for (auto const& draw : draws) {
    probability.push_back(Draw(z, draw).probability());
    unit.push_back(Draw(z, draw).gradient(1));
    sum += probability.back();
  }
  REQUIRE(sum == Approx(1).epsilon(1e-13));
  for (std::size_t a = 0; a < draws.size(); ++a)
    for (std::size_t b = 0; b < draws.size(); ++b) {
      auto const advantages = leave_one_out(Row{loss_of_draw(draws[a]), loss_of_draw(draws[b])});
      for (std::size_t e = 0; e < 4; ++e)
        estimate[e] += probability[a] * probability[b] * (advantages[0] * unit[a][e] + advantages[1] * unit[b][e]);
    }
  auto const exact = logit_differences({z}, [&](Rows const& logits) { return expected_loss(logits[0]); });
  REQUIRE(norm(exact[0]) > 0.1);
  REQUIRE(relative_error(estimate, exact[0]) <= 1e-9);
  REQUIRE(Draw(z, {2, 0}).gradient(0) == Row(4, 0.0)); // equal losses: advantage zero
}

TEST_CASE("log probabilities stay finite where the drawn ones hold all the mass") {
  Draw draw({0, 800, 801, -5}, {2, 1, 0});
  REQUIRE(std::isfinite(norm(draw.gradient(1))));
  REQUIRE(norm(draw.gradient(1)) > 0);
}

TEST_CASE("one advantage a token, or one for all") {
  RoutingFixture<> f(random_logits(3, 4));
  f.routing.mode = Mode::training;
  f.select<IdentityScore>(GumbelTopK{.k = 2});
  ScoreFunction<Exec> const one{OwnedVector<double, Exec>("a", 1)}, each{OwnedVector<double, Exec>("a", 3)};
  to_device(Row{2}, one.advantage), to_device(Row{2, 0, -1}, each.advantage);
  auto const by_one = f.loss_gradient(one, f.saved_of(one)), by_each = f.loss_gradient(each, f.saved_of(each));
  REQUIRE(by_one[0] == by_each[0]);
  REQUIRE(norm(by_each[1]) == 0);
  for (std::size_t e = 0; e < 4; ++e) REQUIRE(by_each[2][e] == Approx(-by_one[2][e] / 2).epsilon(1e-14));
  REQUIRE_THROWS_AS((ScoreFunction<Exec>{OwnedVector<double, Exec>("a", 2)}.check(f.sizes)), Error);
}

TEST_CASE("a toy of four experts, one of them right: the router finds it from losses alone") {
  Row z(4, 0.0);
  ScoreFunction<Exec> const policy{OwnedVector<double, Exec>("advantage", 1)};
  int const draws = 4;
  for (std::uint64_t step = 0; step < 300; ++step) {
    Row losses;
    std::vector<Row> d_log;
    for (int m = 0; m < draws; ++m) {
      RoutingFixture<> f(Rows{z});
      f.routing.mode = Mode::training;
      f.routing.step = step * draws + std::uint64_t(m);
      f.select<IdentityScore>(GumbelTopK{.k = 1});
      losses.push_back(f.chosen()[0][0] == 2 ? 0 : 1);
      to_device(Row{1}, policy.advantage);
      d_log.push_back(f.loss_gradient(policy, f.saved_of(policy))[0]);
    }
    auto const advantages = leave_one_out(losses);
    for (std::size_t m = 0; m < std::size_t(draws); ++m)
      for (std::size_t e = 0; e < 4; ++e) z[e] -= 0.5 * advantages[m] * d_log[m][e];
  }
  REQUIRE(softmax(z)[2] > 0.99);
}

TEST_CASE("cheapness falls with the cost within [0, 1], is one half where all cost alike, and looks back so far") {
  CostWindow window(50);
  REQUIRE(window.cheapness(3) == 0.5);
  for (int n = 0; n < 50; ++n) window.add(7);
  REQUIRE(window.cheapness(1) == 0.5);
  std::mt19937 engine(2);
  std::uniform_real_distribution<double> uniform(0, 100);
  Row roots;
  for (int n = 0; n < 120; ++n) {
    double const cost = uniform(engine);
    window.add(cost);
    if (n >= 70) roots.push_back(std::sqrt(cost)); // the last 50
  }
  std::sort(roots.begin(), roots.end());
  auto const quantile = [&](double share) { // between neighbours 2 and 3, and 46 and 47
    double const at = share * 49, below = std::floor(at);
    return roots[std::size_t(below)] * (below + 1 - at) + roots[std::size_t(below) + 1] * (at - below);
  };
  double last = 1;
  for (double cost = 0; cost <= 200; cost += 0.5) {
    double const c = window.cheapness(cost);
    REQUIRE((c >= 0 && c <= 1 && c <= last));
    double const expected = 1 - (std::sqrt(cost) - quantile(0.05)) / (quantile(0.95) - quantile(0.05));
    REQUIRE(std::abs(c - std::min(1.0, std::max(0.0, expected))) < 1e-13);
    last = c;
  }
  REQUIRE(last == 0);
  REQUIRE_THROWS_AS(window.add(-1), Error);
  REQUIRE_THROWS_AS(window.cheapness(std::nan("")), Error);
  REQUIRE_THROWS_AS(CostWindow(0), Error);
}

TEST_CASE("rewards: a wrong answer earns nothing by being cheap, a malformed one nothing at all") {
  for (double const weight : {0.0, 0.3, 1.0}) {
    CostReward const reward{.weight = weight};
    REQUIRE(reward(false, 1, 1, 1) == -1);
    REQUIRE(reward(true, 0, 0.25, 1) == 0.25);
    REQUIRE(reward(true, 0, 0.25, 0) == 0.25);
    REQUIRE(reward(true, 0.5, 0.25, 0.75) == Approx(0.75)); // what was earned is as much as it was cheap
    REQUIRE(reward(true, 1, 0, 0) == Approx(1 - weight));
    REQUIRE(reward(true, 1, 0, 1) == Approx(1));
  }
  REQUIRE_THROWS_AS((CostReward{.weight = 2}(true, 1, 0, 1)), Error);
}

} // namespace reinforce_test
