// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/coverage_then_confidence.hpp>

#include <random>

/// What the two stages do to a router that learns: four clusters of tokens, four experts, each a number that shall become the
/// target of the clusters it serves.

namespace coverage_learning_test {

using namespace kokomo;
using namespace kokomo::test;

double entropy(Row const& p) {
  double h = 0;
  for (double const v : p) h -= v > 0 ? v * std::log(v) : 0;
  return h;
}

/// Shares of log 4.
struct Outcome {
  double usage = 0, confidence = 0;
};
struct Run {
  Outcome at_switch, at_end;
  offset_t trigger = 0;
};

/// Plain descent on sum_e p_e (v_e - u)^2 / 2, averaged over clusters, plus the balancer's loss.
Run learn(CoverageThenConfidence const& policy, unsigned seed, int steps) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  Row const target{-1.5, -0.5, 0.5, 1.5};
  Row value(4);
  Rows logits(4, Row(4));
  for (double& v : value) v = 0.5 * normal(engine);
  for (auto& row : logits)
    for (double& z : row) z = 0.1 * normal(engine);
  auto f = fixture_of({.logits = logits});
  auto const state = f.state_of(policy);
  auto const outcome = [&] {
    Row mean(4, 0.0);
    Outcome out;
    for (auto const& z : logits) {
      auto const p = softmax(z);
      out.confidence += entropy(p) / std::log(4.0) / 4;
      for (std::size_t e = 0; e < 4; ++e) mean[e] += p[e] / 4;
    }
    out.usage = entropy(mean) / std::log(4.0);
    return out;
  };
  Run run;
  for (int n = 0; n < steps; ++n) {
    to_device(flat(logits), f.logits);
    auto const saved = f.saved_of(policy);
    f.observe(policy, state, saved);
    auto const d = f.loss_gradient(policy, saved);
    policy.step<double>(f.exec, state);
    f.exec.fence();
    Row d_value(4, 0.0);
    for (std::size_t c = 0; c < 4; ++c) {
      auto const p = softmax(logits[c]);
      Row cost(4);
      double mean = 0;
      for (std::size_t e = 0; e < 4; ++e) {
        cost[e] = (value[e] - target[c]) * (value[e] - target[c]) / 2;
        mean += p[e] * cost[e];
        d_value[e] += p[e] * (value[e] - target[c]) / 4;
      }
      for (std::size_t e = 0; e < 4; ++e) logits[c][e] -= p[e] * (cost[e] - mean) / 4 + d[c][e];
    }
    for (std::size_t e = 0; e < 4; ++e) value[e] -= 0.5 * d_value[e];
    offset_t const trigger = to_host(state.trigger)[0];
    if (run.trigger == 0 && trigger > 0) run.trigger = trigger, run.at_switch = outcome();
  }
  run.at_end = outcome();
  return run;
}

TEST_CASE("coverage first, then confidence: all experts are used at the switch and at the end, each cluster is sure") {
  CoverageThenConfidence const two_stages{
      .coverage = 1, .final_coverage = 1, .confidence = 0.3f, .threshold = 0.9f, .ramp = 200};
  CoverageThenConfidence at_once{.coverage = 0, .final_coverage = 0, .confidence = 1};
  at_once.threshold = 2, at_once.decay = 0, at_once.window = 1, at_once.ramp = 0; // confidence from the first step on
  double control = 0;
  for (unsigned seed = 1; seed <= 4; ++seed) {
    auto const run = learn(two_stages, seed, 1200);
    INFO("seed " << seed << ", switch at " << run.trigger << ", usage " << run.at_switch.usage << ", at the end "
                 << run.at_end.usage << ", confidence " << run.at_end.confidence);
    CHECK((run.trigger > 0 && run.trigger < 600));
    CHECK(run.at_switch.usage > 0.95);
    CHECK(run.at_end.usage > 0.9);
    CHECK(run.at_end.confidence < 0.3);
    control += learn(at_once, seed, 1200).at_end.usage / 4;
  }
  CHECK(control < 0.85); // four seeds gave 0.75, 0.50, 1.00 and 0.50: clusters that share an expert never part again
}

} // namespace coverage_learning_test
