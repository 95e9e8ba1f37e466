// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>

#include <kokomo/gate/score_gate.hpp>
#include <kokomo/router/balanced_assignment.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

namespace balanced_assignment_test {

using namespace kokomo;
using namespace kokomo::test;

Rows random_scores(std::size_t tokens, std::size_t experts, unsigned seed, double skew = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  Row offset(experts);
  for (double& o : offset) o = skew * normal(engine);
  Rows rows(tokens, Row(experts));
  for (auto& row : rows)
    for (std::size_t e = 0; e < experts; ++e) row[e] = normal(engine) + offset[e];
  return rows;
}

/// The largest sum over all assignments with loads floor(T / E) or one more, by trying all: states are the loads.
double optimum(Rows const& s) {
  std::size_t const tokens = s.size(), experts = s[0].size(), common = tokens / experts, extras = tokens % experts;
  std::map<std::vector<std::size_t>, double> best{{std::vector<std::size_t>(experts, 0), 0.0}};
  for (auto const& row : s) {
    std::map<std::vector<std::size_t>, double> next;
    for (auto const& [loads, value] : best)
      for (std::size_t e = 0; e < experts; ++e) {
        auto more = loads;
        ++more[e];
        std::size_t over = 0;
        for (std::size_t const load : more) over += load > common ? load - common : 0;
        if (over > extras || more[e] > common + 1) continue;
        auto const [place, fresh] = next.emplace(more, value + row[e]);
        if (!fresh) place->second = std::max(place->second, value + row[e]);
      }
    best = std::move(next);
  }
  double largest = -1e300;
  for (auto const& [loads, value] : best) largest = std::max(largest, value);
  return largest;
}

template <class T = double> struct Auction {
  RoutingFixture<T> f;

  Auction(Rows const& scores, BalancedAssignment const& policy = {}) : f(scores) {
    f.routing.mode = Mode::training;
    f.template select<IdentityScore>(policy);
  }
  double value(Rows const& s) const {
    auto const chosen = f.chosen();
    double sum = 0;
    for (std::size_t t = 0; t < s.size(); ++t) sum += s[t][std::size_t(chosen[t].at(0))];
    return sum;
  }
  /// Loads are floor(n / E), with n mod E experts of one more.
  void check_balance(offset_t n) const {
    auto const loads = f.loads();
    offset_t const experts = offset_t(loads.size());
    offset_t more = 0, sum = 0;
    for (offset_t const load : loads) {
      REQUIRE((load == n / experts || load == n / experts + 1));
      more += load - n / experts;
      sum += load;
    }
    REQUIRE(sum == n);
    REQUIRE(more == n % experts);
  }
};

double epsilon_of(Rows const& s, BalancedAssignment const& policy) {
  double low = s[0][0], high = low;
  for (auto const& row : s)
    for (double const v : row) low = std::min(low, v), high = std::max(high, v);
  return std::max(double(policy.accuracy) * (high - low), double(policy.minimum_epsilon));
}

TEST_CASE("balanced assignment is within T epsilon of the best one, for any T and E") {
  for (auto const& [tokens, experts] : std::vector<std::array<int, 2>>{
           {1, 1}, {1, 3}, {2, 3}, {3, 3}, {4, 3}, {12, 4}, {13, 4}, {15, 4}, {9, 1}, {11, 3}})
    for (unsigned seed = 1; seed <= 5; ++seed)
      for (double const skew : {0.0, 3.0}) {
        auto const s = random_scores(std::size_t(tokens), std::size_t(experts), seed, skew);
        for (float const accuracy : {0.02f, 1e-4f}) {
          BalancedAssignment const policy{.accuracy = accuracy, .minimum_epsilon = 1e-6f, .rounds = 100000};
          Auction<> const auction(s, policy);
          auction.check_balance(tokens);
          double const best = optimum(s);
          CHECK(auction.value(s) <= best + 1e-9);
          CHECK(auction.value(s) >= best - tokens * epsilon_of(s, policy) - 1e-9);
        }
      }
}

TEST_CASE("prices prove how good a balanced assignment is") {
  auto const s = random_scores(512, 16, 3, 2);
  BalancedAssignment const policy{.accuracy = 1e-3f};
  RoutingFixture<> f(s);
  f.prepare_for(policy);
  auto const memory = f.laid_out<BalancedAssignment::Scratch<double, Exec>>(policy);
  detail::auction<double, Exec>(f.exec, f.routing, memory, {double(policy.accuracy), 1e-4, policy.rounds});
  f.exec.fence();
  auto const price = to_host(memory.price);
  auto const expert = to_host(memory.expert);
  double primal = 0, dual = 0;
  for (double const p : price) dual += 32 * p;
  for (std::size_t t = 0; t < 512; ++t) {
    double best = -1e300;
    for (std::size_t e = 0; e < 16; ++e) best = std::max(best, s[t][e] - price[e]);
    dual += best;
    primal += s[t][std::size_t(expert[t])];
  }
  CHECK(primal <= dual + 1e-9); // weak duality
  CHECK(primal >= dual - 512 * epsilon_of(s, policy) - 1e-9);
  CHECK(to_host(memory.epsilon)[0] == Approx(epsilon_of(s, policy)));
}

TEST_CASE("the auction ends: equal scores, no bids at all, a bound on them") {
  Auction<float>(Rows(100, Row(7, 0.0))).check_balance(100);
  Rows same_wish(90, Row(8));
  for (auto& row : same_wish)
    for (std::size_t e = 0; e < 8; ++e) row[e] = double(e);
  Auction<float>(same_wish).check_balance(90);
  for (offset_t const rounds : {0, 1, 2}) {
    auto const s = random_scores(61, 8, 4, 3);
    Auction<>(s, {.rounds = rounds}).check_balance(61);
  }
  RoutingFixture<> nobody(Rows{}, 0, 3);
  nobody.routing.mode = Mode::training;
  nobody.select<IdentityScore>(BalancedAssignment{});
  REQUIRE(nobody.loads() == std::vector<offset_t>{0, 0, 0});
}

TEST_CASE("balanced assignment: inference, masks, numbers that are none") {
  auto const s = random_scores(30, 4, 5, 3);
  RoutingFixture<> f(s);
  f.select<SigmoidScore>(BalancedAssignment{});
  for (std::size_t t = 0; t < 30; ++t)
    REQUIRE(f.chosen()[t][0] == int(std::max_element(s[t].begin(), s[t].end()) - s[t].begin()));
  f.weigh(SigmoidGate{});
  double const z = s[0][std::size_t(f.chosen()[0][0])];
  REQUIRE(f.weights()[0][0] == Approx(1 / (1 + std::exp(-z)))); // how the centroids learn

  std::vector<index_t> mask(30, 1);
  mask[3] = mask[7] = 0;
  f.set_token_mask(mask);
  f.set_expert_mask({1, 0, 1, 1});
  f.routing.mode = Mode::training;
  f.select<SigmoidScore>(BalancedAssignment{});
  REQUIRE(f.chosen()[3].empty());
  auto loads = f.loads();
  REQUIRE(loads[1] == 0);
  std::sort(loads.begin(), loads.end());
  REQUIRE(loads == std::vector<offset_t>{0, 9, 9, 10});

  // Masked experts whose logits are as small as can be, as a mask on logits makes them: no part of the range.
  double const least = -double(std::numeric_limits<float>::max());
  RoutingFixture<float> masked({{least, least, 1, 2}, {least, least, 3, 1}, {least, least, 2, 1}});
  masked.set_expert_mask({0, 0, 1, 1});
  masked.routing.mode = Mode::training;
  masked.select<SigmoidScore>(BalancedAssignment{});
  REQUIRE(masked.chosen() == std::vector<std::vector<int>>{{3}, {2}, {2}});

  double const infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  Auction<>({{nan, nan}, {infinity, -infinity}, {-infinity, nan}, {1, 2}, {infinity, infinity}}).check_balance(5);
}

TEST_CASE("balanced assignment: settings that make no sense") {
  REQUIRE_THROWS_AS((BalancedAssignment{.accuracy = -1}.check({})), Error);
  REQUIRE_THROWS_AS((BalancedAssignment{.minimum_epsilon = 0}.check({})), Error);
  REQUIRE_THROWS_AS((BalancedAssignment{.rounds = -1}.check({})), Error);
}

} // namespace balanced_assignment_test
