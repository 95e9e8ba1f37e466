// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/no_balancer.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/balancer/z_loss.hpp>

namespace balancers_test {

using namespace kokomo;
using namespace kokomo::test;

template <class... Parts>
using Subject =
    Layer<Router<LinearScorer, TopK<>>, NormalizedSigmoidGate, Balancers<Parts...>, SwiGluExperts, double, Exec>;
using BiasAndLosses = Subject<LoadBalancingLoss, SelectionBias, ZLoss>;
using TwoLosses = Subject<LoadBalancingLoss, LoadBalancingLoss>;

template <class L, class... Parts> typename L::Policies settings(Parts const&... parts) {
  return {.router = {.selector = {.k = 2}}, .balancer = {{parts...}}, .experts = {.intermediate = 2}};
}

BiasAndLosses::Policies const with_bias = settings<BiasAndLosses>(
    LoadBalancingLoss{.coefficient = 0.5f}, SelectionBias{.rate = 0.25f}, ZLoss{.coefficient = 0.25f});
TwoLosses::Policies const per_batch_and_sequence =
    settings<TwoLosses>(LoadBalancingLoss{.coefficient = 0.5f, .top_k = 1},
                        LoadBalancingLoss{.coefficient = 2, .top_k = 3, .tokens_per_sequence = 4});

TEST_CASE("losses of several balancers add up, and one of them may bias selection") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 2, .experts = 3}, {.tokens = 17, .hidden = 4, .experts = 5}};
  check_shapes<BiasAndLosses>(shapes, [](Shape const&) { return with_bias; });
  check_shapes<TwoLosses>(shapes, [](Shape const&) { return per_batch_and_sequence; });
}

TEST_CASE("several balancers: gradients equal central differences") {
  Shape const shape{.tokens = 7, .hidden = 3, .experts = 4};
  Fixture<BiasAndLosses> first(shape, with_bias);
  first.set_mask({1, 1, 0, 1, 1, 1, 1});
  check_gradients(first);
  Fixture<TwoLosses> second(shape, per_batch_and_sequence);
  check_gradients(second);
}

TEST_CASE("several balancers: a step moves the bias of the one that has one") {
  Fixture<BiasAndLosses> fixture({.tokens = 9, .hidden = 3, .experts = 4}, with_bias);
  auto const& state = std::get<1>(fixture.state.balancer.parts);
  auto expected = to_host(state.bias);
  fixture.mode = Mode::training;
  fixture.forward();
  auto const counts = to_host(state.counts);
  fixture.layer.step(fixture.exec, fixture.state);
  fixture.exec.fence();
  for (std::size_t e = 0; e < 4; ++e) // mean 18 / 4 = 4.5: no expert is at it
    expected[e] += counts[e] > 4 ? -0.25 : 0.25;
  REQUIRE(to_host(state.bias) == expected);
}

TEST_CASE("without a balancer there is no loss and no step") {
  Fixture<Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, double, Exec>> fixture(
      {.tokens = 4, .hidden = 3, .experts = 3}, {.experts = {.intermediate = 2}});
  check_forward(fixture);
  fixture.layer.step(fixture.exec, fixture.state);
  REQUIRE(fixture.result().loss == 0);
}

} // namespace balancers_test
