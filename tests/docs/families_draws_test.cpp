// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/adaptive_routing.hpp>
#include <kokomo/models/balanced_training.hpp>
#include <kokomo/transform/reinforce.hpp>

TEST_CASE("re_mix") {
  // [snippet:re_mix]
  using Layer =
      kokomo::models::WithBalancer<kokomo::models::ReMix<>, kokomo::ScoreFunction<Kokkos::DefaultExecutionSpace>>;
  kokomo::OwnedVector<double, Layer::Exec> const advantage("advantage", 1);
  example::set(advantage, 2, 0); // of this draw, by leave_one_out
  Example<Layer> run({.tokens = 1, .hidden = 1, .experts = 3}, {.router = {.selector = {.k = 2}},
                                                                .gate = kokomo::remix_gate(/*k*/ 2, /*rank*/ 8),
                                                                .balancer = {advantage},
                                                                .experts = {.intermediate = 8}});
  example::fill(run.parameters.router.weight, 0); // equal logits: q = 1/3 each
  run.set_x({{1}});
  run.forward(kokomo::Mode::training);
  auto const draw = run.chosen()[0];
  REQUIRE((draw.size() == 2 && draw[0] != draw[1])); // without replacement
  REQUIRE(close(run.weights(), {{0.125, 0.125}}));   // 2 / (k rank), whatever the logits
  run.layer.backward(run.exec, run.parameters, run.state, run.x, run.dy, run.dx, run.gradients, run.workspace,
                     run.tape);
  // log Q = log q_a + log(q_b / (q_b + q_c)): derivatives (2/3, 1/6, -5/6) for a, b and the one left out
  auto const gradient = host(run.gradients.router.weight);
  REQUIRE(gradient(draw[0], 0) == Approx(2 * 2.0 / 3));
  REQUIRE(gradient(draw[1], 0) == Approx(2 * 1.0 / 6));
  REQUIRE(gradient(3 - draw[0] - draw[1], 0) == Approx(2 * -5.0 / 6));
  // [/snippet]
}

TEST_CASE("autonomous_layer") {
  // [snippet:autonomous]
  using Layer = kokomo::models::Autonomous<>;
  Example<Layer> run(
      {.tokens = 1, .hidden = 2, .experts = 3},
      {.router = {.scorer = {.width = 2}, .selector = {.k = 2}}, .experts = {.intermediate = 4, .cached = 2}});
  example::fill(run.parameters.router.down, 0); // first matrices 0.6, 1 and 0.8 times the identity
  for (int i = 0; i < 2; ++i) {
    example::set(run.parameters.router.down, 0.6, 0, i, i);
    example::set(run.parameters.router.down, 1.0, 1, i, i);
    example::set(run.parameters.router.down, 0.8, 2, i, i);
  }
  run.set_x({{3, 4}}); // of norm 5
  run.forward();
  REQUIRE(close(run.logits(), {{3, 5, 4}})); // norms of the activations
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{1, 2}});
  double const sum = std::exp(3) + std::exp(5) + std::exp(4); // over all, not over the chosen
  REQUIRE(close(run.weights(), {{std::exp(5) / sum, std::exp(4) / sum}}));
  // [/snippet]
}

TEST_CASE("magnet") {
  // [snippet:magnet]
  using Layer = kokomo::models::Magnet<float, Kokkos::DefaultExecutionSpace, kokomo::SwiGluExperts>;
  Layer::Policies policies{
      .router = {.scorer = {.hidden = 1}, .selector = {.k = 1}},
      .balancer = {.coverage = 1, .final_coverage = 0.25f, .threshold = 0.5f, .decay = 0, .window = 1, .ramp = 0},
      .experts = {.intermediate = 4}};
  Example<Layer> run({.tokens = 2, .hidden = 3, .experts = 2, .router_hidden = 1}, policies);
  example::set(run.parameters.router.hidden_weight, 1, 0, 0);
  example::set(run.parameters.router.weight, 20, 0, 0);
  example::set(run.parameters.router.weight, -20, 1, 0); // logits of +-20 tanh(interaction)
  kokomo::OwnedMatrix<float, Layer::Exec> const interaction("interaction", 2, 1);
  example::set(interaction, 9, 0, 0);
  example::set(interaction, -9, 1, 0);
  run.inputs.router_input = interaction;
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}});
  REQUIRE(run.loss() == Approx(0).margin(1e-6)); // both experts are used: coverage is all that counts at first
  example::set(interaction, 9, 1, 0);
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}});
  REQUIRE(run.loss() == Approx(std::log(2.0)));
  run.layer.step(run.exec, run.state); // routing is sure: the second stage
  run.forward(kokomo::Mode::training);
  REQUIRE(run.loss() == Approx(0.25 * std::log(2.0)));
  // [/snippet]
}
