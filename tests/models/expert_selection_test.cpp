// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "preset.hpp"

#include <support/finite_differences.hpp>

#include <kokomo/models/batch_routing.hpp>

/// Presets whose experts choose tokens, as whole layers.

namespace expert_selection_test {

using namespace kokomo;
using namespace kokomo::test;

/// Which of the tokens [begin, end) have the `places` largest values, the smaller token first among equals.
std::vector<std::size_t> largest(Row const& of_token, std::size_t begin, std::size_t end, std::size_t places) {
  std::vector<std::size_t> order;
  for (std::size_t t = begin; t < end; ++t) order.push_back(t);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return of_token[a] > of_token[b]; });
  order.resize(std::min(places, order.size()));
  return order;
}
Row column(Rows const& rows, std::size_t e) {
  Row values;
  for (auto const& row : rows) values.push_back(row[e]);
  return values;
}

TEST_CASE(
    "expert selection as mesh has it: shares of a softmax over tokens, their mean over takers, a loss of coverage") {
  using Layer = models::ExpertSelectionMesh<double, Exec, ScaleExperts>;
  Layer::Policies policies;
  policies.router.selector = {.places = 2, .tokens_per_sequence = 5};
  policies.balancer = {.coefficient = 0.5f, .tokens_per_sequence = 5};
  policies.adjust.tokens_per_sequence = 5;
  Fixture<Layer> f({.tokens = 9, .hidden = 4, .experts = 3}, policies, 3);
  f.mode = Mode::training;
  f.forward();
  auto const z = products(matrix_of(f.x), matrix_of(f.parameters.router.weight));
  Weights expected(9);
  double loss = 0;
  for (std::size_t begin : {0, 5}) {
    std::size_t const end = std::min(begin + 5, z.size());
    Row mean(9, 0.0);
    Rows share = z;
    for (std::size_t e = 0; e < 3; ++e) {
      double sum = 0;
      for (std::size_t t = begin; t < end; ++t) sum += std::exp(z[t][e]);
      for (std::size_t t = begin; t < end; ++t) share[t][e] = std::exp(z[t][e]) / sum, mean[t] += share[t][e] / 3;
      for (auto const t : largest(column(z, e), begin, end, 2)) expected[t][int(e)] = share[t][e];
    }
    for (double const m : mean) loss += 0.5 / 2 * double(end - begin) * m * m;
  }
  for (auto& token : expected)
    for (auto& [e, w] : token) w /= double(token.size());
  check_preset(f, expected);
  REQUIRE(f.result().loss == Approx(loss).epsilon(1e-13));
  check_gradients(f);
}

TEST_CASE("Mixture-of-Depths with a predictor: the best tokens in training, the predicted ones in inference") {
  using Layer = models::MixtureOfDepthsPredicted<double, Exec, ScaleExperts>;
  Layer::Policies policies;
  policies.router.scorer.predictor = {.hidden = 5, .biases = true};
  policies.router.selector = {.places = 3, .tokens_per_sequence = 6, .inference = InferenceChoice::predicted};
  policies.balancer = {.coefficient = 0.5f, .predicted = true};
  Fixture<Layer> f({.tokens = 12, .hidden = 4, .experts = 1}, policies, 6);
  auto const& p = f.parameters.router;
  auto const x = matrix_of(f.x), z = products(x, matrix_of(p.router.weight));
  auto hidden = products(x, matrix_of(p.predictor.hidden_weight));
  auto const hidden_bias = to_host(p.predictor.hidden_bias);
  for (auto& row : hidden)
    for (std::size_t m = 0; m < 5; ++m) row[m] = std::max(row[m] + hidden_bias[m], 0.0);
  auto predicted = products(hidden, matrix_of(p.predictor.weight));
  for (auto& row : predicted) row[0] += to_host(p.predictor.bias)[0];

  Weights by_logit(12), by_prediction(12);
  for (std::size_t begin : {0, 6})
    for (auto const t : largest(column(z, 0), begin, begin + 6, 3)) by_logit[t][0] = z[t][0];
  double loss = 0;
  for (std::size_t t = 0; t < 12; ++t) {
    if (predicted[t][0] > 0) by_prediction[t][0] = z[t][0];
    double const sigma = 1 / (1 + std::exp(-predicted[t][0]));
    loss -= 0.5 / 12 * std::log(by_logit[t].empty() ? 1 - sigma : sigma);
  }
  f.mode = Mode::training;
  f.forward();
  check_preset(f, by_logit);
  REQUIRE(f.result().loss == Approx(loss).epsilon(1e-13));
  f.mode = Mode::inference;
  f.forward();
  check_preset(f, by_prediction);
  REQUIRE(by_logit != by_prediction); // it has not learnt yet

  // A step along the predictor's gradient lowers its loss; neither it nor its loss touches x or the router.
  f.mode = Mode::training;
  f.forward(), f.backward();
  auto const dx = to_host(f.dx);
  auto const d_router = to_host(f.gradients.router.router.weight);
  auto values = to_host(p.predictor.weight);
  auto const d = to_host(f.gradients.router.predictor.weight);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] -= 0.1 * d[i];
  to_device(values, p.predictor.weight);
  f.forward();
  REQUIRE(f.result().loss == Approx(loss - 0.1 * norm(d) * norm(d)).epsilon(1e-3)); // to second order in the step
  REQUIRE(f.result().loss < loss);

  Layer::Policies without = policies;
  without.balancer.coefficient = 0;
  Fixture<Layer> g({.tokens = 12, .hidden = 4, .experts = 1}, without, 6);
  g.mode = Mode::training;
  g.forward(), g.backward();
  REQUIRE(to_host(g.dx) == dx);
  REQUIRE(to_host(g.gradients.router.router.weight) == d_router);
}

TEST_CASE("predictions that nobody makes are refused") {
  using Layer = models::MixtureOfDepths<>;
  Layer::Policies policies;
  policies.experts.intermediate = 4;
  policies.router.selector.inference = InferenceChoice::predicted;
  REQUIRE_THROWS_AS(Layer({.tokens = 4, .hidden = 4, .experts = 1}, policies), Error);
  policies.router.selector.inference = InferenceChoice::best;
  policies.balancer.predicted = true;
  REQUIRE_THROWS_AS(Layer({.tokens = 4, .hidden = 4, .experts = 1}, policies), Error);
}

} // namespace expert_selection_test
