// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/no_balancer.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/balancer/z_loss.hpp>
#include <kokomo/router/top_k.hpp>

TEST_CASE("no_balancer") {
  // [snippet:no_balancer]
  using Layer =
      kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<2>>, kokomo::SoftmaxGate, kokomo::NoBalancer>;
  Example<Layer> run({.tokens = 4, .hidden = 3, .experts = 3}, {.experts = {.intermediate = 4}});
  run.forward(kokomo::Mode::training);
  run.layer.step(run.exec, run.state); // nothing to do
  int views = 0;
  run.state.for_each([&](std::string const&, auto const&) { ++views; });
  REQUIRE(views == 0);
  REQUIRE(run.loss() == 0);
  // [/snippet]
}

TEST_CASE("selection_bias") {
  // [snippet:selection_bias]
  using Layer =
      kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::SigmoidGate, kokomo::SelectionBias>;
  Example<Layer> run({.tokens = 3, .hidden = 2, .experts = 2},
                     {.balancer = {.rate = 0.3f}, .experts = {.intermediate = 4}});
  run.set_logits({{1, 0}, {1, 0}, {1, 0}}); // scores 0.73 and 0.5: all tokens choose expert 0
  run.forward(kokomo::Mode::training);      // counts the choices
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}, {0}});
  run.layer.step(run.exec, run.state); // b += 0.3 sign(1.5 - count): (-0.3, 0.3)
  run.forward(kokomo::Mode::training); // ranks 0.43 and 0.8
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{1}, {1}, {1}});
  REQUIRE(close(run.weights(), {{0.5}, {0.5}, {0.5}})); // the weight is the score without the bias
  // [/snippet]
}

TEST_CASE("load_balancing_loss") {
  // [snippet:load_balancing_loss]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<2>>, kokomo::SoftmaxGate,
                              kokomo::LoadBalancingLoss>;
  Example<Layer> run({.tokens = 3, .hidden = 3, .experts = 3},
                     {.balancer = {.coefficient = 0.01f, .top_k = 2}, .experts = {.intermediate = 4}});
  run.set_logits({{1, 1, 0}, {0, 1, 1}, {1, 0, 1}}); // every expert is picked twice, mean probability 1/3
  run.forward();
  REQUIRE(run.loss() == Approx(0.01 * 2)); // perfect balance: coefficient * k
  run.set_logits({{30, 29, 0}, {30, 29, 0}, {30, 29, 0}});
  run.forward();
  REQUIRE(run.loss() == Approx(0.01 * 3)); // two experts take all: E * (1 * P_0 + 1 * P_1), P_0 + P_1 = 1
  // [/snippet]
}

TEST_CASE("z_loss") {
  // [snippet:z_loss]
  using Layer =
      kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::SoftmaxGate, kokomo::ZLoss>;
  Example<Layer> run({.tokens = 2, .hidden = 4, .experts = 4},
                     {.balancer = {.coefficient = 0.1f}, .experts = {.intermediate = 4}});
  run.set_logits({{0, 0, 0, 0}, {0, 0, 0, 0}});
  run.forward();
  REQUIRE(run.loss() == Approx(0.1 * std::log(4.0) * std::log(4.0))); // coefficient * (ln E)^2
  // [/snippet]
}

TEST_CASE("balancers") {
  // [snippet:balancers]
  using Both =
      kokomo::Balancers<kokomo::SelectionBias, kokomo::ZLoss>; // at most one with a bias, checked at compile time
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::SigmoidGate, Both>;
  Example<Layer> run({.tokens = 1, .hidden = 2, .experts = 2},
                     {.balancer = {{{.rate = 1e-3f}, {.coefficient = 1}}}, .experts = {.intermediate = 4}});
  run.set_logits({{0, 0}});
  run.forward(kokomo::Mode::training);
  run.layer.step(run.exec, run.state);
  REQUIRE(run.loss() == Approx(std::log(2.0) * std::log(2.0)));
  std::vector<std::string> names;
  run.state.for_each([&](std::string const& name, auto const&) { names.push_back(name); });
  REQUIRE(names == std::vector<std::string>{"balancer.bias", "balancer.counts"});
  // [/snippet]
}
