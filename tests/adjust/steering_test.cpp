// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <adjust/adjusted.hpp>

#include <kokomo/adjust/steering.hpp>
#include <kokomo/router/top_k.hpp>

#include <set>

namespace steering_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T = double>
Adjusted<Steering, T> steered(Steering const& policy, Rows const& logits, int k, std::vector<index_t> const& promote,
                              std::vector<index_t> const& suppress = {}) {
  Adjusted<Steering, T> adjusted(policy, logits, k);
  policy.set(adjusted.fixture.exec, adjusted.state, promote, suppress, adjusted.fixture.sizes);
  return adjusted;
}

std::vector<std::set<int>> sets(std::vector<std::vector<int>> const& chosen) {
  std::vector<std::set<int>> result;
  for (auto const& token : chosen) result.emplace_back(token.begin(), token.end());
  return result;
}

TEST_CASE("soft steering adds lambda standard deviations") {
  auto const logits = some_logits(9, 6);
  auto adjusted = steered({.strength = 0.5f}, logits, 2, {1, 4}, {2});
  auto const out = adjusted(logits);
  for (std::size_t t = 0; t < logits.size(); ++t) {
    double mean = 0, squares = 0;
    for (double const z : logits[t]) mean += z / 6;
    for (double const z : logits[t]) squares += (z - mean) * (z - mean) / 6;
    Row expected = logits[t];
    expected[1] += 0.5 * std::sqrt(squares);
    expected[4] += 0.5 * std::sqrt(squares);
    expected[2] -= 0.5 * std::sqrt(squares);
    REQUIRE(relative_error(out[t], expected) < 1e-14);
  }
  check_adjust_gradient(adjusted, logits);

  auto nothing = steered({.strength = 0}, logits, 2, {1, 4});
  REQUIRE(nothing(logits) == logits);
  auto nobody = steered({.strength = 1}, logits, 2, {});
  REQUIRE(nobody(logits) == logits);
}

TEST_CASE("soft steering follows shifts and scales: the chosen set stays") {
  auto const logits = some_logits(40, 6);
  Rows moved = logits;
  for (auto& row : moved)
    for (double& z : row) z = 3 * z + 11;
  auto a = steered({.strength = 0.8f}, logits, 2, {1, 4}), b = steered({.strength = 0.8f}, moved, 2, {1, 4});
  (void)a(logits), (void)b(moved);
  REQUIRE(sets(a.chosen()) == sets(b.chosen()));
  auto plain = steered({.strength = 0}, logits, 2, {});
  (void)plain(logits);
  REQUIRE(sets(a.chosen()) != sets(plain.chosen()));
}

TEST_CASE("hard steering chooses every forced expert, in float32 and however large the logits are") {
  for (double const size : {1e-3, 1.0, 1e4}) {
    auto logits = some_logits(200, 8);
    for (auto& row : logits)
      for (double& z : row) z *= size;
    auto adjusted = steered<float>({.mode = SteeringMode::hard}, logits, 3, {2, 5, 7}, {0});
    (void)adjusted(logits);
    for (auto const& chosen : sets(adjusted.chosen())) REQUIRE(chosen == std::set<int>{2, 5, 7});
    auto one = steered<float>({.mode = SteeringMode::hard, .noise = 0}, logits, 3, {6}, {0, 1});
    (void)one(logits);
    for (auto const& chosen : sets(one.chosen<IdentityScore>())) { // softmax would be 0 for most
      REQUIRE(chosen.contains(6));
      REQUIRE(!(chosen.contains(0) || chosen.contains(1))); // six others are left for three places
    }
  }
  // sigmoids saturate: a margin tells them apart as long as they are not all 1
  Rows const high{{10, 9, 8, -3}};
  auto margin = steered<float>({.mode = SteeringMode::hard, .margin = 1}, high, 1, {3});
  (void)margin(high);
  REQUIRE(margin.chosen<SigmoidScore>() == std::vector<std::vector<int>>{{3}});
}

TEST_CASE("hard steering: values, draws and gradient") {
  auto const logits = some_logits(5, 6);
  Steering const policy{.mode = SteeringMode::hard, .margin = 0.5f, .noise = 0.25f, .seed = 4};
  auto adjusted = steered(policy, logits, 2, {1, 4}, {2});
  auto const out = adjusted(logits);
  for (std::size_t t = 0; t < logits.size(); ++t) {
    double const most = *std::max_element(logits[t].begin(), logits[t].end()),
                 least = *std::min_element(logits[t].begin(), logits[t].end());
    for (std::size_t const e : {1, 4}) REQUIRE((out[t][e] >= most + 0.5 && out[t][e] < most + 0.5 + 5 * 0.25));
    REQUIRE((out[t][2] <= least - 0.5 && out[t][2] > least - 0.5 - 5 * 0.25));
    for (std::size_t const e : {0, 3, 5}) REQUIRE(out[t][e] == logits[t][e]);
  }
  REQUIRE(adjusted(logits) == out);
  check_adjust_gradient(adjusted, logits);
  adjusted.step = 1;
  REQUIRE(adjusted(logits) != out);

  Rows const nothing{{NAN, NAN}, {-INFINITY, 1}};
  auto odd = steered({.mode = SteeringMode::hard, .noise = 0}, nothing, 1, {0});
  auto const kept = odd(nothing);
  REQUIRE(std::isnan(kept[0][0])); // no finite logit: nothing to be ahead of
  REQUIRE(kept[1][0] > 1);
}

TEST_CASE("steering refuses what it could not keep") {
  auto const logits = some_logits(2, 4);
  auto const id = [&](SteeringMode mode, std::vector<index_t> const& promote, std::vector<index_t> const& suppress) {
    try {
      (void)steered({.mode = mode}, logits, 2, promote, suppress);
    } catch (Error const& error) {
      return error.id();
    }
    return 0;
  };
  REQUIRE(id(SteeringMode::hard, {0, 1, 2}, {}) == 102); // |forced| > k
  REQUIRE(id(SteeringMode::hard, {0, 1}, {2, 3}) == 0);
  REQUIRE(id(SteeringMode::soft, {0, 1, 2}, {}) == 0);
  REQUIRE(id(SteeringMode::soft, {4}, {}) == 106);
  REQUIRE(id(SteeringMode::soft, {-1}, {}) == 106);
  REQUIRE(id(SteeringMode::soft, {1}, {1}) == 106);
}

} // namespace steering_test
