// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/focal_loss.hpp>

namespace focal_loss_test {

using namespace kokomo;
using namespace kokomo::test;

FocalLoss<Exec> focal(std::vector<index_t> const& labels, Row const& weights = {}) {
  FocalLoss<Exec> loss{.labels = OwnedVector<index_t, Exec>("labels", labels.size())};
  to_device(labels, loss.labels);
  if (!weights.empty()) loss.weights = OwnedVector<double, Exec>("weights", weights.size());
  if (!weights.empty()) to_device(weights, loss.weights);
  return loss;
}

TEST_CASE("focal loss: the formula and its gradient, tokens without label, with one of no expert, and padding") {
  auto const logits = random_logits(7, 3);
  std::vector<index_t> const labels{0, 2, none, 1, 5, 1, 2}, mask{1, 1, 1, 1, 1, 1, 0};
  Row const weights{0.5, 2, 1};
  for (float const gamma : {0.0f, 1.0f, 2.0f, 3.5f}) {
    auto loss = focal(labels, weights);
    loss.coefficient = 0.5f, loss.gamma = gamma;
    double expected = 0;
    for (std::size_t const t : {0, 1, 3, 5}) {
      auto const y = std::size_t(labels[t]);
      double const p = softmax(logits[t])[y];
      expected -= 0.5 / 4 * weights[y] * std::pow(1 - p, double(gamma)) * std::log(p);
    }
    Batch const batch{.logits = logits, .mask = mask};
    REQUIRE(loss_of(loss, batch) == Approx(expected).epsilon(1e-13));
    check_loss_gradient(loss, batch);
  }
}

TEST_CASE("focal loss: certain ones cost nothing, wrong ones stay finite") {
  auto loss = focal({0, 0});
  REQUIRE(loss_of(loss, {.logits = {{800, 0}, {800, -5}}}) == 0);
  REQUIRE(loss_of(loss, {.logits = {{0, 800}, {0, 800}}}) == Approx(800));
  for (double const d : flat(gradient_of(loss, {.logits = {{800, 0}, {0, 800}}}))) REQUIRE(std::isfinite(d));
  loss = focal({none, none});
  REQUIRE(loss_of(loss, {.logits = {{1, 0}, {0, 1}}}) == 0);
  REQUIRE_THROWS_AS(loss_of(loss, {.logits = random_logits(3, 2)}), Error);
  loss.gamma = 0.5f;
  REQUIRE_THROWS_AS(loss_of(loss, {.logits = random_logits(2, 2)}), Error);
}

TEST_CASE("class-balanced weights: those of Dr.LLM's counts, nearly flat") {
  Row const counts{4399, 120956, 1457};
  auto const weights = class_balanced_weights(counts);
  REQUIRE(weights[0] == Approx(0.916).epsilon(1e-3));
  REQUIRE(weights[1] == Approx(0.905).epsilon(1e-3));
  REQUIRE(weights[2] == Approx(1.179).epsilon(1e-3));
  REQUIRE(weights[0] + weights[1] + weights[2] == Approx(3));
  REQUIRE_THROWS_AS(class_balanced_weights(Row{1, 0}), Error);
  REQUIRE_THROWS_AS(class_balanced_weights(counts, 1), Error);
}

} // namespace focal_loss_test
