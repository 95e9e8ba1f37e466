// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>
#include <support/scorer_fixture.hpp>

#include <kokomo/balancer/membership_loss.hpp>
#include <kokomo/router/predicted_scorer.hpp>

namespace predicted_scorer_test {

using namespace kokomo;
using namespace kokomo::test;

TEST_CASE("a predictor beside a router: both scorers' logits and gradients, but none of the predictor for x") {
  ScorerFixture<PredictedScorer<>> f({.predictor = {.hidden = 6, .biases = true}}, 7, 4, 3);
  ScorerFixture<LinearScorer> router({}, 7, 4, 3);
  ScorerFixture<HiddenLayerScorer<Relu>> predictor({.hidden = 6, .biases = true}, 7, 4, 3);
  to_device(to_host(f.x), router.x), to_device(to_host(f.x), predictor.x);
  auto const& p = f.parameters;
  to_device(to_host(p.router.weight), router.parameters.weight);
  to_device(to_host(p.predictor.hidden_weight), predictor.parameters.hidden_weight);
  to_device(to_host(p.predictor.hidden_bias), predictor.parameters.hidden_bias);
  to_device(to_host(p.predictor.weight), predictor.parameters.weight);
  to_device(to_host(p.predictor.bias), predictor.parameters.bias);
  auto const z = f.forward(), first = router.forward(), second = predictor.forward();
  Row d, d_first, d_second;
  for (std::size_t t = 0; t < 7; ++t)
    for (std::size_t e = 0; e < 6; ++e) {
      REQUIRE(z[t][e] == (e < 3 ? first[t][e] : second[t][e - 3]));
      d.push_back(std::sin(double(6 * t + e)));
      (e < 3 ? d_first : d_second).push_back(d.back());
    }
  f.backward(d), router.backward(d_first), predictor.backward(d_second);
  REQUIRE(to_host(f.dx) == to_host(router.dx));
  REQUIRE(norm(to_host(predictor.dx)) > 0);
  auto const& g = f.gradients;
  REQUIRE(to_host(g.router.weight) == to_host(router.gradients.weight));
  REQUIRE(to_host(g.predictor.hidden_weight) == to_host(predictor.gradients.hidden_weight));
  REQUIRE(to_host(g.predictor.hidden_bias) == to_host(predictor.gradients.hidden_bias));
  REQUIRE(to_host(g.predictor.weight) == to_host(predictor.gradients.weight));
  REQUIRE(to_host(g.predictor.bias) == to_host(predictor.gradients.bias));
}

TEST_CASE("membership of predictions: the cross entropy of the second half of the logits, and its gradient") {
  auto const logits = random_logits(5, 6);
  MembershipLoss const loss{.coefficient = 0.5f, .predicted = true};
  auto const fixture = [&](Rows const& z) {
    RoutingFixture<> f(z);
    f.sizes.experts = f.sizes.weighted = 3;
    f.select<IdentityScore>(TopK<>{.k = 1});
    return f;
  };
  auto const value = [&](Rows const& z) {
    auto f = fixture(z);
    return f.observe(loss, Nothing{}, f.saved_of(loss));
  };
  auto f = fixture(logits);
  auto const saved = f.saved_of(loss);
  double expected = 0;
  auto const taken = f.chosen();
  for (std::size_t t = 0; t < 5; ++t)
    for (int e = 0; e < 3; ++e) {
      double const sigma = 1 / (1 + std::exp(-logits[t][std::size_t(3 + e)]));
      expected -= 0.5 / 15 * std::log(taken[t][0] == e ? sigma : 1 - sigma);
    }
  REQUIRE(f.observe(loss, Nothing{}, saved) == Approx(expected).epsilon(1e-13));
  auto const gradient = f.loss_gradient(loss, saved);
  CHECK(relative_error(flat(gradient), flat(logit_differences(logits, value))) < 1e-8); // h^2, and rounding over h
}

} // namespace predicted_scorer_test
