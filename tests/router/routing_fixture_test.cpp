// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/routing_fixture.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/balancer/z_loss.hpp>

namespace routing_fixture_test {

using namespace kokomo;
using namespace kokomo::test;

TEST_CASE("routing policies without a layer") {
  RoutingFixture<> f({{2, 1, 0}, {0, 0, 5}, {1, 1, 1}});
  f.set_token_mask({1, 1, 0});
  f.select<SoftmaxScore>(TopK<>{.k = 2});
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{0, 1}, {2, 0}, {}});
  REQUIRE(f.loads() == std::vector<offset_t>{2, 1, 1});
  f.weigh(SoftmaxGate{});
  double const sum = 1 + std::exp(-1.0) + std::exp(-2.0);
  REQUIRE(f.weights()[0][0] == Approx(1 / sum));

  // The weight of the first entry alone: softmax's own derivative.
  auto const d = f.gate_gradient(SoftmaxGate{}, {1});
  double const p0 = 1 / sum, p1 = std::exp(-1.0) / sum;
  REQUIRE(d[0][0] == Approx(p0 * (1 - p0)));
  REQUIRE(d[0][1] == Approx(-p0 * p1));
  REQUIRE(norm(d[1]) == 0);

  ZLoss const loss{.coefficient = 1};
  auto const saved = f.saved_of(loss);
  double const z0 = 2 + std::log(sum), z1 = 5 + std::log(1 + 2 * std::exp(-5.0));
  REQUIRE(f.observe(loss, {}, saved) == Approx((z0 * z0 + z1 * z1) / 2));
  auto const differences = logit_differences({{2, 1, 0}, {0, 0, 5}, {1, 1, 1}}, [&](Rows const& logits) {
    to_device(flat(logits), f.logits);
    return f.observe(loss, {}, saved);
  });
  to_device(Row{2, 1, 0, 0, 0, 5, 1, 1, 1}, f.logits);
  f.observe(loss, {}, saved);
  REQUIRE(relative_error(flat(f.loss_gradient(loss, saved)), flat(differences)) < 1e-8);
}

TEST_CASE("a layer of experts that only scale has exact gradients") {
  using Subject = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, ScaleExperts, double>;
  Fixture<Subject> fixture({.tokens = 6, .hidden = 3, .experts = 4}, {.router = {.selector = {.k = 2}}});
  fixture.forward();
  check_gradients(fixture);
}

} // namespace routing_fixture_test
