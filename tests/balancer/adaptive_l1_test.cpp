// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/adaptive_l1.hpp>
#include <kokomo/balancer/importance_loss.hpp>
#include <kokomo/balancer/load_loss.hpp>
#include <kokomo/detail/random.hpp>
#include <kokomo/router/positive.hpp>

namespace adaptive_l1_test {

using namespace kokomo;
using namespace kokomo::test;

struct Relu {
  AdaptiveL1 policy;
  RoutingFixture<> f;
  state_t<AdaptiveL1, double, Exec> state;
  saved_t<AdaptiveL1, double, Exec> saved;

  Relu(AdaptiveL1 const& p, Rows const& logits)
      : policy(p), f(logits), state(f.state_of(policy)), saved(f.saved_of(policy)) {
    f.routing.mode = Mode::training;
  }
  double observe() {
    f.select<ReluScore>(Positive{.at_most = int(f.sizes.experts)});
    return f.observe(policy, state, saved);
  }
  offset_t exponent() const { return to_host(state.exponent)[0]; }
  void step() {
    policy.step<double>(f.exec, state);
    f.exec.fence();
  }
};

TEST_CASE("ReMoE's loss equals a loop, and its gradient differences") {
  auto const logits = random_logits(40, 5, 2);
  AdaptiveL1 const policy{.target = 2, .initial = 0.25f};
  Row f(5, 0.0), p(5, 0.0);
  for (auto const& row : logits)
    for (std::size_t e = 0; e < 5; ++e) f[e] += row[e] > 0 ? 1 : 0, p[e] += std::max(row[e], 0.0);
  double expected = 0;
  for (std::size_t e = 0; e < 5; ++e) expected += 0.25 * 5 / (2.0 * 40 * 40) * f[e] * p[e];
  REQUIRE(Relu(policy, logits).observe() == Approx(expected).epsilon(1e-12));

  auto const few = random_logits(6, 4, 3);
  Relu relu(policy, few);
  to_device(std::vector<offset_t>{3}, relu.state.exponent); // lambda = 0.25 * 1.2^3
  auto const loss = [&](Rows const& z) {
    Relu moved(policy, z);
    to_device(std::vector<offset_t>{3}, moved.state.exponent);
    return moved.observe();
  };
  REQUIRE(relu.observe() == Approx(loss(few)).epsilon(1e-14));
  auto const differences = logit_differences(few, loss);
  REQUIRE(norm(flat(differences)) > 1e-3);
  REQUIRE(relative_error(flat(relu.f.loss_gradient(policy, relu.saved)), flat(differences)) <= 1e-7);
}

TEST_CASE("lambda rises by the factor above the target, falls below, stays at it, and without a pass") {
  for (auto const& [logits, change] :
       {std::pair{Rows{{1, 1, -1}, {1, 1, 1}}, 1}, std::pair{Rows{{1, -1, 1}, {1, 1, -1}}, 0},
        std::pair{Rows{{1, -1, -1}, {1, 1, -1}}, -1}}) {
    Relu relu({.target = 2}, logits);
    relu.observe();
    relu.step();
    REQUIRE(relu.exponent() == change);
    Relu code({.target = 2, .at_target = AtTarget::fall}, logits); // at the target the released code divides
    code.observe();
    code.step();
    REQUIRE(code.exponent() == (change == 0 ? -1 : change));
    code.step(); // nothing was seen since
    REQUIRE(code.exponent() == (change == 0 ? -1 : change));
    relu.step();
    REQUIRE(relu.exponent() == change);
    relu.f.routing.mode = Mode::inference;
    relu.observe();
    relu.step();
    REQUIRE(relu.exponent() == change);
  }
}

TEST_CASE("the controller brings the number of active experts to its target and holds it") {
  // free logits, pulled to z0 by a square and to zero by the loss
  std::size_t const tokens = 64, experts = 8;
  auto const z0 = random_logits(tokens, experts, 8);
  Relu relu({.target = 2, .initial = 1e-4f}, z0);
  auto z = z0;
  double active = 0;
  offset_t low = 1000, high = -1000;
  int const steps = 400, last = 100;
  for (int n = 0; n < steps; ++n) {
    to_device(flat(z), relu.f.logits);
    relu.observe();
    auto const d = relu.f.loss_gradient(relu.policy, relu.saved);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t e = 0; e < experts; ++e) {
        z[t][e] -= 0.2 * (z[t][e] - z0[t][e] + d[t][e]);
        active += n >= steps - last && z[t][e] > 0 ? 1.0 / double(tokens * last) : 0.0;
      }
    relu.step();
    if (n >= steps - last) low = std::min(low, relu.exponent()), high = std::max(high, relu.exponent());
  }
  INFO(active << " active, exponents " << low << " to " << high);
  REQUIRE(std::abs(active - 2) / double(experts) < 0.01); // sparsity within one per cent of 1 - 2/8
  REQUIRE(high - low <= 4);                               // the logits follow lambda with a delay of a few steps
}

/// Logits as NoisyScorer leaves them: noisy, clean, deviation.
struct Noisy {
  Rows clean, deviation, draws;

  Noisy(std::size_t tokens, std::size_t experts)
      : clean(random_logits(tokens, experts, 4)), deviation(random_logits(tokens, experts, 5)),
        draws(random_logits(tokens, experts, 6)) {
    for (auto& row : deviation)
      for (auto& value : row) value = 0.6 + 0.25 * value; // in (0.1, 1.1)
  }
  Rows columns() const {
    Rows rows(clean.size());
    for (std::size_t t = 0; t < clean.size(); ++t) {
      for (std::size_t e = 0; e < clean[t].size(); ++e) rows[t].push_back(clean[t][e] + draws[t][e] * deviation[t][e]);
      rows[t].insert(rows[t].end(), clean[t].begin(), clean[t].end());
      rows[t].insert(rows[t].end(), deviation[t].begin(), deviation[t].end());
    }
    return rows;
  }
};

RoutingFixture<> noisy_fixture(Rows const& columns, int k) {
  RoutingFixture<> f(columns);
  f.sizes.experts = f.sizes.weighted = f.sizes.columns / 3;
  f.select<IdentityScore>(TopK<>{.k = k});
  return f;
}
template <class Balancer> double noisy_loss(Balancer const& loss, Rows const& columns, int k) {
  auto f = noisy_fixture(columns, k);
  return f.observe(loss, {}, f.saved_of(loss));
}

TEST_CASE("the load's probability is how often noise drawn anew selects the expert") {
  std::size_t const experts = 5;
  int const k = 2, draws = 20000;
  Noisy const noisy(1, experts);
  auto f = noisy_fixture(noisy.columns(), k);
  LoadLoss const loss{.k = k};
  auto const saved = f.saved_of(loss);
  f.observe(loss, {}, saved);
  auto const probability = to_host(saved.probability);
  auto const row = noisy.columns()[0];
  for (std::size_t e = 0; e < experts; ++e) { // the others' noise as it was, e's own anew
    int selected = 0;
    for (int n = 0; n < draws; ++n) {
      Row z(row.begin(), row.begin() + std::ptrdiff_t(experts));
      z[e] = noisy.clean[0][e] + detail::normal(7, std::uint64_t(n), 0, index_t(e)) * noisy.deviation[0][e];
      auto const picks = best(z, k);
      selected += std::find(picks.begin(), picks.end(), e) != picks.end();
    }
    double const p = probability[e];
    REQUIRE(std::abs(double(selected) / draws - p) <= 4 * std::sqrt(p * (1 - p) / draws) + 1e-12); // four sigma
  }
}

TEST_CASE("load: gradients with respect to clean logits and deviations equal differences, noise kept") {
  Noisy noisy(6, 4);
  int const k = 2;
  for (auto const threshold : {LoadThreshold::excluding, LoadThreshold::kth}) {
    LoadLoss const loss{.coefficient = 1, .k = k, .threshold = threshold, .sample_variance = true};
    auto f = noisy_fixture(noisy.columns(), k);
    auto const saved = f.saved_of(loss);
    f.observe(loss, {}, saved);
    auto const d = f.loss_gradient(loss, saved);
    Rows d_clean = noisy.clean, d_deviation = noisy.clean;
    for (std::size_t t = 0; t < 6; ++t)
      for (std::size_t e = 0; e < 4; ++e) {
        d_clean[t][e] = d[t][e] + d[t][4 + e];
        d_deviation[t][e] = d[t][e] * noisy.draws[t][e] + d[t][8 + e];
      }
    auto const by_clean = logit_differences(noisy.clean, [&](Rows const& z) {
      auto moved = noisy;
      moved.clean = z;
      return noisy_loss(loss, moved.columns(), k);
    });
    auto const by_deviation = logit_differences(noisy.deviation, [&](Rows const& s) {
      auto moved = noisy;
      moved.deviation = s;
      return noisy_loss(loss, moved.columns(), k);
    });
    REQUIRE(norm(flat(by_clean)) > 1e-3);
    REQUIRE(relative_error(flat(d_clean), flat(by_clean)) <= 1e-7);
    REQUIRE(relative_error(flat(d_deviation), flat(by_deviation)) <= 1e-7);
  }
}

TEST_CASE("load with k = E, or without deviation, is a count without a gradient") {
  Noisy noisy(5, 3);
  auto f = noisy_fixture(noisy.columns(), 3);
  LoadLoss const all{.coefficient = 1, .k = 3};
  auto const saved = f.saved_of(all);
  REQUIRE(f.observe(all, {}, saved) == 0); // every expert takes every token
  REQUIRE(norm(flat(f.loss_gradient(all, saved))) == 0);

  Rows const sharp{{2, 1, 0, 2, 1, 0, 0, 0, 0}, {2, 0, 1, 2, 0, 1, 0, 0, 0}};
  auto g = noisy_fixture(sharp, 1);
  LoadLoss const one{.coefficient = 1, .k = 1};
  auto const kept = g.saved_of(one);
  REQUIRE(g.observe(one, {}, kept) == Approx(2).epsilon(1e-9)); // load (2, 0, 0): mean 2/3, variance 8/9
  REQUIRE(norm(flat(g.loss_gradient(one, kept))) == 0);
}

TEST_CASE("importance of the clean logits reads and writes their columns") {
  Noisy noisy(6, 4);
  ImportanceLoss<SoftmaxMass> const loss{.coefficient = 1, .clean = true};
  REQUIRE(noisy_loss(loss, noisy.columns(), 2) ==
          Approx(loss_of(ImportanceLoss<SoftmaxMass>{.coefficient = 1}, {.logits = noisy.clean})).epsilon(1e-13));
  auto f = noisy_fixture(noisy.columns(), 2);
  auto const saved = f.saved_of(loss);
  f.observe(loss, {}, saved);
  auto const d = f.loss_gradient(loss, saved);
  auto const plain = gradient_of(ImportanceLoss<SoftmaxMass>{.coefficient = 1}, {.logits = noisy.clean});
  for (std::size_t t = 0; t < 6; ++t) {
    REQUIRE(norm(Row(d[t].begin(), d[t].begin() + 4)) == 0);
    REQUIRE(distance(Row(d[t].begin() + 4, d[t].begin() + 8), plain[t]) <= 1e-15);
  }
  REQUIRE_THROWS_AS((loss_of(loss, {.logits = noisy.clean})), Error);
  REQUIRE_THROWS_AS((loss_of(LoadLoss{.k = 1}, {.logits = noisy.clean})), Error);
}

} // namespace adaptive_l1_test
