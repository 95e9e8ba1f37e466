// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/balancer/adaptive_l1.hpp>
#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/expert_router_coupling.hpp>
#include <kokomo/balancer/importance_loss.hpp>
#include <kokomo/balancer/load_loss.hpp>
#include <kokomo/balancer/orthogonality_loss.hpp>
#include <kokomo/router/noisy_scorer.hpp>
#include <kokomo/router/positive.hpp>

using example::set;

TEST_CASE("adaptive_l1") {
  // [snippet:adaptive_l1]
  // ReMoE: every expert with a positive logit, which is its weight; one expert a token is wanted.
  using Layer =
      kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::Positive>, kokomo::ReluGate, kokomo::AdaptiveL1>;
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2}, {.router = {.selector = {.at_most = 2}},
                                                                .balancer = {.target = 1, .initial = 0.5f},
                                                                .experts = {.intermediate = 4}});
  run.set_logits({{1, 2}, {3, -1}}); // three active entries of two tokens
  run.forward(kokomo::Mode::training);
  // f = (1, 1/2), P = (2, 1): lambda * E / target * sum f P
  REQUIRE(run.loss() == Approx(0.5 * 2 * (1 * 2 + 0.5 * 1)));
  run.layer.step(run.exec, run.state); // more than wanted: lambda rises
  REQUIRE(host(run.state.balancer.exponent)(0) == 1);
  run.forward(kokomo::Mode::training);
  REQUIRE(run.loss() == Approx(0.5 * 1.2 * 2 * 2.5));
  // [/snippet]
}

TEST_CASE("load_loss") {
  // [snippet:load_loss]
  // Noisy top-k with both of its losses.
  using Balancer = kokomo::Balancers<kokomo::ImportanceLoss<>, kokomo::LoadLoss>;
  using Layer = kokomo::Layer<kokomo::Router<kokomo::NoisyScorer, kokomo::TopK<1>>, kokomo::SoftmaxGate, Balancer>;
  Example<Layer> run({.tokens = 4, .hidden = 3, .experts = 3},
                     {.balancer = {{{.coefficient = 0}, {.coefficient = 1, .k = 1}}}, .experts = {.intermediate = 4}});
  run.set_x({{0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}}); // equal logits
  run.forward(kokomo::Mode::inference);
  REQUIRE(run.loss() == Approx(0).margin(1e-6)); // each expert expects half of every token
  // [/snippet]
}

TEST_CASE("orthogonality_loss") {
  // [snippet:orthogonality_loss]
  using Coupling = kokomo::ExpertRouterCoupling;
  using Balancer = kokomo::Balancers<kokomo::OrthogonalityLoss, Coupling>;
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::SoftmaxGate, Balancer>;
  Example<Layer> run(
      {.tokens = 1, .hidden = 2, .experts = 2},
      {.balancer = {{{.coefficient = 0.1f}, Coupling{.coefficient = 0}}}, .experts = {.intermediate = 4}});
  run.set_logits({{1, 2}}); // the router's weight becomes the identity
  run.forward();
  REQUIRE(run.loss() == Approx(0).margin(1e-7));
  set(run.parameters.router.weight, 0.5, 0, 1); // rows (1, 0.5) and (0, 1): Gram [[1.25, 0.5], [0.5, 1]]
  run.forward();
  REQUIRE(run.loss() == Approx(0.1 * (0.25 + 0.5 + 0.5)));
  // [/snippet]
  // [snippet:expert_router_coupling]
  // Experts of one unit each: the first looks at coordinate 0, the second at coordinate 1, as the router does.
  Example<Layer> coupled(
      {.tokens = 1, .hidden = 2, .experts = 2},
      {.balancer = {{{.coefficient = 0}, Coupling{.coefficient = 1, .alpha = 1}}}, .experts = {.intermediate = 1}});
  coupled.set_logits({{1, 2}});
  Kokkos::deep_copy(coupled.parameters.experts.gate_up, 0.0f);
  set(coupled.parameters.experts.gate_up, 1, 0, 0, 0);
  set(coupled.parameters.experts.gate_up, 1, 1, 0, 1);
  coupled.forward();
  REQUIRE(coupled.loss() == 0); // M is the identity
  set(coupled.parameters.experts.gate_up, 0, 0, 0, 0);
  set(coupled.parameters.experts.gate_up, 1, 0, 0, 1); // both look at coordinate 1: M = [[0, 0], [1, 1]]
  coupled.forward();
  REQUIRE(coupled.loss() == Approx((0 + 1 + 0 + 0) / 4.0));
  // [/snippet]
}
