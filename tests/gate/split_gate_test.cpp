// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/error.hpp>
#include <kokomo/gate/split_gate.hpp>

#include <set>

/// What multi-head routing's options make of a task's logits; with its default the gate is tested as a part of MHR.

namespace split_gate_test {

using namespace kokomo;
using namespace kokomo::test;

double sigmoid(double z) {
  return 1 / (1 + std::exp(-z));
}

/// Weights by expert.
Rows weights_of(SplitGate const& gate, Rows const& logits, Mode mode = Mode::training, std::uint64_t step = 0) {
  auto f = fixture_of({.logits = logits, .k = int(logits[0].size()), .mode = mode});
  f.routing.step = step;
  f.weigh(gate);
  auto const chosen = f.chosen();
  auto const weights = f.weights();
  Rows rows(logits.size(), Row(logits[0].size()));
  for (std::size_t t = 0; t < rows.size(); ++t)
    for (std::size_t i = 0; i < chosen[t].size(); ++i) rows[t][std::size_t(chosen[t][i])] = weights[t][i];
  return rows;
}

/// Of sum(d * weight) against differences; `smooth` is what the gate's gradient is that of.
void check_gradient(SplitGate const& gate, Rows const& logits, SplitGate const& smooth) {
  Row d;
  for (std::size_t i = 0; i < logits.size() * logits[0].size(); ++i) d.push_back(std::sin(double(i) + 1));
  auto f = fixture_of({.logits = logits, .k = int(logits[0].size())});
  f.weigh(gate);
  auto const chosen = f.chosen();
  Row by_entry;
  for (std::size_t t = 0; t < logits.size(); ++t)
    for (int const e : chosen[t]) by_entry.push_back(d[t * logits[0].size() + std::size_t(e)]);
  auto const gradient = f.gate_gradient(gate, by_entry);
  auto const differences = logit_differences(logits, [&](Rows const& z) {
    auto const w = flat(weights_of(smooth, z));
    double sum = 0;
    for (std::size_t i = 0; i < w.size(); ++i) sum += d[i] * w[i];
    return sum;
  });
  REQUIRE(relative_error(flat(gradient), flat(differences)) <= 1e-8);
}

Rows const logits = random_logits(5, 6, 4);

TEST_CASE("splits: skills that are always active, scaled averages, l2") {
  auto const shared = weights_of({.splits = 2, .shared_skill = true}, logits);
  auto const average = weights_of({.splits = 2, .normalize = SplitNormalize::average}, logits);
  auto const l2 = weights_of({.splits = 2, .normalize = SplitNormalize::l2}, logits);
  for (std::size_t t = 0; t < 5; ++t)
    for (std::size_t s : {0, 3}) {
      Row const z(logits[t].begin() + std::ptrdiff_t(s), logits[t].begin() + std::ptrdiff_t(s) + 3);
      double const sum = sigmoid(z[0]) + sigmoid(z[1]) + 1, norm = std::sqrt(z[0] * z[0] + z[1] * z[1] + z[2] * z[2]);
      REQUIRE(shared[t][s] == Approx(sigmoid(z[0]) / sum).epsilon(1e-11)); // epsilon is 1e-12
      REQUIRE(shared[t][s + 2] == Approx(1 / sum).epsilon(1e-11));
      for (std::size_t k = 0; k < 3; ++k) {
        REQUIRE(average[t][s + k] == Approx(sigmoid(z[k]) * std::sqrt(2.0) / std::sqrt(3.0)).epsilon(1e-14));
        REQUIRE(l2[t][s + k] == Approx(z[k] / norm).epsilon(1e-14));
      }
    }
  REQUIRE(flat(weights_of({.splits = 2, .normalize = SplitNormalize::l2}, Rows{Row(6, 0.0)})) == Row(6, 0.0));
  for (auto const normalize : {SplitNormalize::sum, SplitNormalize::average, SplitNormalize::l2})
    for (bool const always : {false, true}) {
      SplitGate const gate{.splits = 2, .normalize = normalize, .shared_skill = always};
      check_gradient(gate, logits, gate);
    }
}

TEST_CASE("splits: rounded activities have the gradient of the smooth ones, behind the rounded divisor") {
  SplitGate const rounded{.splits = 2, .activity = SkillActivity::rounded};
  Rows const z{{1, 2, -1, -3, -0.5, -0.1}}; // two of three are active, and none
  REQUIRE(relative_error(flat(weights_of(rounded, z)), Row{0.5, 0.5, 0, 0, 0, 0}) <= 1e-12); // epsilon
  REQUIRE(flat(weights_of(rounded, Rows{Row(6, 0.0)})) == Row(6, 0.0)); // a half is rounded down, to even
  auto f = fixture_of({.logits = z, .k = 6});
  f.weigh(rounded);
  Row const d{0.7, -1, 0.3, 2, 1, 1};
  Row by_entry;
  auto const chosen = f.chosen();
  for (int const e : chosen[0]) by_entry.push_back(d[std::size_t(e)]);
  auto const gradient = f.gate_gradient(rounded, by_entry)[0];
  double const along = 0.5 * d[0] + 0.5 * d[1];
  for (std::size_t e = 0; e < 3; ++e)
    REQUIRE(gradient[e] == Approx((d[e] - along) / 2 * sigmoid(z[0][e]) * (1 - sigmoid(z[0][e]))).epsilon(1e-11));
  for (std::size_t e = 3; e < 6; ++e) REQUIRE(gradient[e] == 0);
  SplitGate const average{.normalize = SplitNormalize::average},
      rounded_average{.activity = SkillActivity::rounded, .normalize = SplitNormalize::average};
  check_gradient(rounded_average, logits, average); // a constant divisor: exactly the smooth gradient
}

TEST_CASE("splits: relaxed Bernoulli samples, one for the tokens of a sequence, another for each step") {
  SplitGate const gate{
      .splits = 2, .activity = SkillActivity::relaxed, .normalize = SplitNormalize::average, .tokens_per_sequence = 2};
  Rows const equal(5, Row{0.5, 0.5, -1, 0, 2, 1});
  auto const w = weights_of(gate, equal);
  REQUIRE((w[0] == w[1] && w[2] == w[3] && w[0] != w[2] && w[2] != w[4]));
  REQUIRE(w == weights_of(gate, equal));
  REQUIRE(w != weights_of(gate, equal, Mode::training, 1));
  REQUIRE(relative_error(flat(weights_of(gate, equal, Mode::inference)),
                         flat(weights_of({.splits = 2, .normalize = SplitNormalize::average}, equal))) == 0);
  check_gradient(gate, logits, gate);
  SplitGate const normalized{
      .splits = 3, .activity = SkillActivity::relaxed, .dropout = 0.3f, .tokens_per_sequence = 1};
  check_gradient(normalized, logits, normalized);

  // P(sample > 1/2) = P(z + logistic noise > 0) = sigmoid(z)
  int const n = 20000;
  auto const samples =
      weights_of({.activity = SkillActivity::relaxed, .normalize = SplitNormalize::average, .tokens_per_sequence = 1},
                 Rows(n, Row{0.8}));
  double above = 0;
  for (auto const& row : samples) above += row[0] > 0.5 ? 1.0 / n : 0;
  double const p = sigmoid(0.8);
  REQUIRE(std::abs(above - p) < 4 * std::sqrt(p * (1 - p) / n)); // four standard deviations
}

TEST_CASE("splits: dropout in training alone keeps the mean") {
  SplitGate const gate{.normalize = SplitNormalize::average, .dropout = 0.25f, .tokens_per_sequence = 1};
  int const n = 20000;
  auto const w = weights_of(gate, Rows(n, Row{0.0}));
  double mean = 0;
  std::set<double> values;
  for (auto const& row : w) mean += row[0] / n, values.insert(row[0]);
  REQUIRE(values == std::set<double>{0, 0.5 / 0.75});
  REQUIRE(std::abs(mean - 0.5) < 4 * (0.5 / 0.75) * std::sqrt(0.25 * 0.75 / n));
  REQUIRE(weights_of(gate, Rows{Row{0.0}}, Mode::inference)[0][0] == 0.5);
}

TEST_CASE("splits: settings that make no sense") {
  Sizes sizes;
  sizes.experts = 6;
  auto const id = [&](SplitGate const& gate) {
    try {
      gate.check(sizes);
    } catch (Error const& error) {
      return error.id();
    }
    return 0;
  };
  CHECK(id({.splits = 4}) == 103);
  CHECK(id({.epsilon = 0}) == 106);
  CHECK(id({.dropout = 1}) == 106);
  CHECK(id({.tokens_per_sequence = -1}) == 106);
  CHECK(id({.splits = 3, .dropout = 0.5f}) == 0);
}

} // namespace split_gate_test
