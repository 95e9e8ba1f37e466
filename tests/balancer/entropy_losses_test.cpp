// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/budget_loss.hpp>
#include <kokomo/balancer/coverage_then_confidence.hpp>
#include <kokomo/balancer/entropy_loss.hpp>
#include <kokomo/balancer/importance_loss.hpp>
#include <kokomo/balancer/published_losses.hpp>

namespace entropy_losses_test {

using namespace kokomo;
using namespace kokomo::test;

double entropy(Row const& p) {
  double sum = 0;
  for (double const value : p) sum -= value > 0 ? value * std::log(value) : 0;
  return sum;
}
double mean_entropy(Rows const& logits) {
  double sum = 0;
  for (auto const& z : logits) sum += entropy(softmax(z));
  return sum / double(logits.size());
}
Row mean_softmax(Rows const& logits) {
  Row mean(logits[0].size(), 0.0);
  for (auto const& z : logits)
    for (std::size_t e = 0; e < mean.size(); ++e) mean[e] += softmax(z)[e] / double(logits.size());
  return mean;
}

TEST_CASE("entropy: ln E for uniform routing, 0 for one-hot, a loop's otherwise") {
  EntropyLoss const unit{.coefficient = 1};
  REQUIRE(loss_of(unit, {.logits = Rows(3, Row(5, 0.7))}) == Approx(std::log(5.0)).epsilon(1e-14));
  REQUIRE(loss_of(EntropyLoss{.coefficient = 1, .normalized = true}, {.logits = Rows(3, Row(5, 0.7))}) ==
          Approx(1).epsilon(1e-7)); // ln 5 in float32 or better
  REQUIRE(loss_of(unit, {.logits = {{0, 900, 0}}}) == 0);
  auto const logits = random_logits(70, 6);
  REQUIRE(loss_of(unit, {.logits = logits}) == Approx(mean_entropy(logits)).epsilon(1e-12));
  REQUIRE(loss_of(unit, {.logits = {{1, 2}, {5, 0}, {3, 1}}, .mask = {1, 0, 1}}) ==
          Approx(mean_entropy({{1, 2}, {3, 1}})).epsilon(1e-12));
  REQUIRE(loss_of(EntropyLoss{.coefficient = 1, .normalized = true}, {.logits = {{4}}}) == 0); // one expert
  REQUIRE(loss_of(unit, {.logits = {{4, 1}}, .mask = {0}}) == 0);
}

TEST_CASE("entropy: gradients equal central differences, the sign sharpens or flattens") {
  Batch const batch{.logits = random_logits(6, 4), .k = 2, .mask = {1, 1, 0, 1, 1, 1}};
  check_loss_gradient(EntropyLoss{.coefficient = 0.5f}, batch);
  check_loss_gradient(EntropyLoss{.coefficient = -2, .normalized = true}, batch);
  for (float const sign : {1.0f, -1.0f}) { // one descent step on two experts
    Row z{1, 0};
    auto const d = gradient_of(EntropyLoss{.coefficient = sign}, {.logits = {z}});
    double const before = softmax(z)[0];
    for (std::size_t e = 0; e < 2; ++e) z[e] -= 0.1 * d[0][e];
    REQUIRE((softmax(z)[0] > before) == (sign > 0));
  }
}

TEST_CASE("top-p's and LoRA-Mixer's losses are a product and an entropy") {
  Batch const batch{.logits = random_logits(12, 4), .k = 2};
  Balancers<SwitchLoss<Chosen>, EntropyLoss> const both{{top_p_loss(1e-2f), {.coefficient = 1e-4f}}};
  auto f = fixture_of(batch);
  auto const saved = f.saved_of(both);
  REQUIRE(f.observe(both, f.state_of(both), saved) ==
          Approx(loss_of(top_p_loss(1e-2f), batch) + 1e-4f * mean_entropy(batch.logits)).epsilon(1e-10));
}

/// var / mean^2 of the importance
double variation(Row const& importance, bool sample, double epsilon) {
  double mean = 0, variance = 0;
  for (double const v : importance) mean += v / double(importance.size());
  for (double const v : importance) variance += (v - mean) * (v - mean);
  return variance / double(importance.size() - (sample ? 1 : 0)) / (mean * mean + epsilon);
}

TEST_CASE("importance: squared coefficient of variation of the weights, zero if and only if they are even") {
  ImportanceLoss<> const chosen{.coefficient = 1};
  ImportanceLoss<SoftmaxMass> const all{.coefficient = 0.5f, .epsilon = 0, .sample_variance = true};
  REQUIRE(loss_of(chosen, {.logits = balanced_logits(8, 4, 2), .k = 2}) <= 1e-28); // squares of rounding
  // all weight on one of four: mean T/4, variance 3 T^2 / 16
  REQUIRE(loss_of(chosen, {.logits = Rows(4, Row{9, 0, 0, 0})}) == Approx(3).epsilon(1e-9)); // epsilon / 1
  auto const logits = random_logits(50, 5);
  Row of_chosen(5, 0.0), of_all(5, 0.0);
  for (auto const& z : logits) {
    auto const picks = best(z, 2);
    auto const w = softmax({z[picks[0]], z[picks[1]]});
    of_chosen[picks[0]] += w[0], of_chosen[picks[1]] += w[1];
    for (std::size_t e = 0; e < 5; ++e) of_all[e] += softmax(z)[e];
  }
  REQUIRE(loss_of(chosen, {.logits = logits, .k = 2}) == Approx(variation(of_chosen, false, 1e-10)).epsilon(1e-9));
  REQUIRE(loss_of(all, {.logits = logits, .k = 2}) == Approx(0.5 * variation(of_all, true, 0)).epsilon(1e-12));
  REQUIRE(loss_of(chosen, {.logits = {{3}, {2}}}) == 0); // one expert
  REQUIRE(loss_of(all, {.logits = {{3}, {2}}}) == 0);
  REQUIRE(loss_of(chosen, {.logits = {{3, 1}}, .mask = {0}}) == 0);
}

TEST_CASE("importance: gradients equal central differences") {
  Batch const batch{.logits = random_logits(7, 5, 3), .k = 2, .mask = {1, 0, 1, 1, 1, 1, 1}};
  check_loss_gradient(ImportanceLoss<>{.coefficient = 1}, batch);
  check_loss_gradient(ImportanceLoss<SoftmaxMass>{.coefficient = 1, .sample_variance = true}, batch);
}

TEST_CASE("coverage is 0 where use is even, confidence where routing is one-hot, a loop's otherwise") {
  CoverageThenConfidence const policy{.coverage = 1};
  REQUIRE(std::abs(loss_of(policy, {.logits = balanced_logits(8, 4, 1, 3)})) <= 1e-14);
  REQUIRE(loss_of(policy, {.logits = Rows(3, Row{900, 0, 0, 0})}) == Approx(std::log(4.0)).epsilon(1e-14));
  auto const logits = random_logits(40, 4);
  REQUIRE(loss_of(policy, {.logits = logits}) == Approx(std::log(4.0) - entropy(mean_softmax(logits))).epsilon(1e-11));

  CoverageThenConfidence const second{.coverage = 1, .final_coverage = 0.25f, .confidence = 2, .ramp = 10};
  auto f = fixture_of({.logits = logits});
  auto const state = f.state_of(second);
  auto const set = [](auto const& view, offset_t value) { to_device(std::vector<offset_t>{value}, view); };
  for (auto const& [step, progress] :
       {std::pair{30, 0.0}, std::pair{34, 0.4}, std::pair{40, 1.0}, std::pair{99, 1.0}}) {
    set(state.trigger, 30), set(state.steps, step);
    double const c = 1 - 0.75 * progress, s = 2 * progress;
    REQUIRE(f.observe(second, state, f.saved_of(second)) ==
            Approx(c * (std::log(4.0) - entropy(mean_softmax(logits))) + s * mean_entropy(logits) / std::log(4.0))
                .epsilon(1e-11));
  }
}

TEST_CASE("coverage and confidence: gradients equal central differences in both stages") {
  Batch const batch{.logits = random_logits(6, 4), .mask = {1, 1, 1, 0, 1, 1}};
  CoverageThenConfidence const policy{.coverage = 1, .final_coverage = 0.5f, .confidence = 2, .ramp = 4};
  for (offset_t const trigger : {0, 3}) {
    auto const with_state = [&](Rows const& logits, bool gradient) {
      auto moved = batch;
      moved.logits = logits;
      auto f = fixture_of(moved);
      auto const state = f.state_of(policy);
      to_device(std::vector<offset_t>{trigger}, state.trigger);
      to_device(std::vector<offset_t>{5}, state.steps);
      auto const saved = f.saved_of(policy);
      double const loss = f.observe(policy, state, saved);
      return std::pair(loss, gradient ? flat(f.loss_gradient(policy, saved)) : Row{});
    };
    auto const differences =
        logit_differences(batch.logits, [&](Rows const& logits) { return with_state(logits, false).first; });
    REQUIRE(relative_error(with_state(batch.logits, true).second, flat(differences)) <= 1e-7);
  }
}

/// Drives the state machine with batches of a given entropy / ln 2, two experts.
struct Machine {
  CoverageThenConfidence policy;
  RoutingFixture<> f{Rows{{0, 0}}};
  state_t<CoverageThenConfidence, double, Exec> state = f.state_of(policy);

  void see(double entropy_share) { // by bisection: entropy falls in the logit
    double low = 0, high = 50;
    for (int i = 0; i < 200; ++i) {
      double const z = (low + high) / 2;
      (mean_entropy({{z, 0}}) / std::log(2.0) > entropy_share ? low : high) = z;
    }
    to_device(Row{low, 0}, f.logits);
    f.routing.mode = Mode::training;
    f.observe(policy, state, f.saved_of(policy));
  }
  void step() {
    policy.step<double>(f.exec, state);
    f.exec.fence();
  }
  offset_t trigger() const { return to_host(state.trigger)[0]; }
};

TEST_CASE("the second stage begins at the exact step, once, and survives a save") {
  Machine m{.policy = {.threshold = 0.9f, .decay = 0, .window = 3}};
  m.f.select<IdentityScore>(TopK<>{.k = 1});
  m.f.routing.mode = Mode::training;
  std::vector<double> const series{0.95, 0.8, 0.8, 0.95, 0.85, 0.7, 0.6, 0.99, 0.5, 0.5, 0.5, 0.5};
  for (std::size_t n = 0; n < series.size(); ++n) {
    if (n == 5) { // save and load
      auto const fresh = m.f.state_of(m.policy);
      to_device(to_host(m.state.average), fresh.average), to_device(to_host(m.state.steps), fresh.steps);
      to_device(to_host(m.state.below), fresh.below), to_device(to_host(m.state.trigger), fresh.trigger);
      m.state = fresh;
    }
    m.see(series[n]);
    m.step();
    REQUIRE(m.trigger() == (n < 6 ? 0 : 7)); // three on end below for the first time at the 7th step
  }
  m.step(); // nothing seen: no check
  REQUIRE(to_host(m.state.steps)[0] == offset_t(series.size()));
  m.f.routing.mode = Mode::inference;
  m.f.observe(m.policy, m.state, m.f.saved_of(m.policy));
  REQUIRE(to_host(m.state.observed)[0] == 0);
}

TEST_CASE("the average of the entropy is exponential") {
  Machine m{.policy = {.decay = 0.75f}};
  m.f.select<IdentityScore>(TopK<>{.k = 1});
  m.see(0.8), m.see(0.4); // two passes of one step: 0.6
  m.step();
  m.see(0.2);
  m.step();
  REQUIRE(to_host(m.state.average)[0] == Approx(0.75 * 0.6 + 0.25 * 0.2).epsilon(1e-9));
}

TEST_CASE("budget: zero at the target alone, whichever layer spends it, gradients equal differences") {
  Exec const exec;
  BudgetLoss<Exec> const loss{.coefficient = 3, .target = 0.5f, .budget = Budget<Exec>(exec, 2)};
  exec.fence();
  to_device(Row{1, 0}, loss.budget.cost);
  OwnedVector<double, Exec> value("value", 1);
  auto const of = [&](std::vector<Rows> const& layers, std::vector<Rows>* gradients = nullptr) {
    loss.budget.reset(exec);
    std::vector<RoutingFixture<>> fixtures;
    std::vector<saved_t<BudgetLoss<Exec>, double, Exec>> saved;
    for (auto const& logits : layers) {
      fixtures.push_back(fixture_of({.logits = logits}));
      saved.push_back(fixtures.back().saved_of(loss));
      fixtures.back().observe(loss, {}, saved.back());
    }
    loss.value(exec, value);
    exec.fence();
    for (std::size_t l = 0; gradients != nullptr && l < layers.size(); ++l)
      gradients->push_back(fixtures[l].loss_gradient(loss, saved[l]));
    return to_host(value)[0];
  };
  Rows const big(4, Row{40, 0}), small(4, Row{0, 40}), even(4, Row{0, 0});
  REQUIRE(of({even, even}) == 0);
  REQUIRE(of({big, small}) <= 1e-30); // e^-40 squared
  REQUIRE(of({small, big}) <= 1e-30);
  REQUIRE(of({big, big}) == Approx(3 * 0.25).epsilon(1e-12));
  REQUIRE(of({big, even}) == Approx(3 * 0.0625).epsilon(1e-12));

  auto const first = random_logits(3, 2, 4), second = random_logits(5, 2, 5);
  std::vector<Rows> gradients;
  of({first, second}, &gradients);
  REQUIRE(relative_error(flat(gradients[0]), flat(logit_differences(first, [&](Rows const& z) {
                           return of({z, second});
                         }))) <= 1e-7);
  REQUIRE(relative_error(flat(gradients[1]), flat(logit_differences(second, [&](Rows const& z) {
                           return of({first, z});
                         }))) <= 1e-7);
}

} // namespace entropy_losses_test
