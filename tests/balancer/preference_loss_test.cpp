// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/preference_loss.hpp>
#include <kokomo/error.hpp>
#include <kokomo/router/escalate.hpp>

namespace preference_loss_test {

using namespace kokomo;
using namespace kokomo::test;

PreferenceLoss<Exec> preference(Row const& target, float coefficient = 1) {
  PreferenceLoss<Exec> loss{.coefficient = coefficient, .target = OwnedVector<double, Exec>("target", target.size())};
  to_device(target, loss.target);
  return loss;
}
double sigmoid(double z) {
  return 1 / (1 + std::exp(-z));
}

TEST_CASE("preference: a Bernoulli log-likelihood of soft targets, tokens without one and padding apart") {
  auto const logits = random_logits(6, 3);
  Row const target{0.3, 1, -1, 0, 0.9, 0.5};
  auto loss = preference(target, 0.5f);
  loss.light = 2, loss.heavy = 0;
  double expected = 0;
  for (std::size_t const t : {0, 1, 3, 4}) {
    double const s = sigmoid(logits[t][0] - logits[t][2]), w = target[t];
    expected -= 0.5 / 4 * (w * std::log(s) + (1 - w) * std::log(1 - s));
  }
  Batch const batch{.logits = logits, .mask = {1, 1, 1, 1, 1, 0}};
  REQUIRE(loss_of(loss, batch) == Approx(expected).epsilon(1e-13));
  check_loss_gradient(loss, batch);
}

TEST_CASE("preference: far logits stay finite, no target costs nothing, settings that make no sense") {
  REQUIRE(loss_of(preference({0, 1}), {.logits = {{0, 800}, {800, 0}}}) == Approx(800));
  REQUIRE(loss_of(preference({0, 1}), {.logits = {{800, 0}, {0, 800}}}) == 0);
  REQUIRE(loss_of(preference({2, std::nan("")}), {.logits = {{1, 0}, {0, 1}}}) == 0);
  Sizes sizes;
  sizes.tokens = 2, sizes.experts = 2;
  auto const id = [&](PreferenceLoss<Exec> const& loss) {
    try {
      loss.check(sizes);
    } catch (Error const& error) {
      return error.id();
    }
    return 0;
  };
  CHECK(id(preference({1, 1})) == 0);
  CHECK(id(preference({1})) == 107);
  CHECK(id(preference({1, 1}, -1)) == 106);
  auto same = preference({1, 1});
  same.light = 1;
  CHECK(id(same) == 102);
}

TEST_CASE("NanoVLA's router learns the probability of winning, and escalates where that is above tau") {
  // two tasks, ten trials of each arm; the prior is uniform
  Row const target{win_probability(1 + 9, 1 + 1, 1 + 4, 1 + 6), win_probability(1 + 5, 1 + 5, 1 + 6, 1 + 4)};
  auto const loss = preference(target);
  Rows logits{{0, 0}, {0, 0}}; // of a request of each
  for (int step = 0; step < 300; ++step) {
    auto const d = gradient_of(loss, {.logits = logits});
    for (std::size_t t = 0; t < 2; ++t)
      for (std::size_t e = 0; e < 2; ++e) logits[t][e] -= 2 * d[t][e];
  }
  for (std::size_t t = 0; t < 2; ++t)
    REQUIRE(std::abs(sigmoid(logits[t][1] - logits[t][0]) - target[t]) < 1e-4); // the likelihood's maximum
  RoutingFixture<> f(logits);
  f.select<IdentityScore>(Escalate{.tau = 0.6f});
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{1}, {0}});
}

} // namespace preference_loss_test
