// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/decorated.hpp>
#include <kokomo/models/mixtral.hpp>

TEST_CASE("decorated") {
  // [snippet:decorated]
  using Layer = kokomo::models::Healed<kokomo::models::Steered<kokomo::models::Mixtral<>>>;
  Layer::Policies policies{.router = {.selector = {.inner = {.k = 1}}},
                           .experts = {.intermediate = 4},
                           .adjust = {.mode = kokomo::SteeringMode::hard}};
  Example<Layer> run({.tokens = 2, .hidden = 3, .experts = 3}, policies);
  run.set_logits({{3, 2, 0}, {0, 2, 1}});
  policies.adjust.set(run.exec, run.state.adjust, {2}, {}, run.layer.sizes()); // towards expert 2
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{2}, {2}});
  example::set(run.state.selector.failed, 1, 2); // which fails
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}});
  REQUIRE(run.status().rerouted == 2);
  // [/snippet]
}

TEST_CASE("steered") {
  // [snippet:steered]
  using Layer = kokomo::models::Steered<kokomo::models::Mixtral<>>;
  Layer::Policies const policies{
      .router = {.selector = {.k = 1}}, .experts = {.intermediate = 4}, .adjust = {.strength = 0.5f}};
  Example<Layer> run({.tokens = 2, .hidden = 4, .experts = 4}, policies);
  run.set_logits({{3, 1, 3, 1}, {30, 10, 30, 10}}); // standard deviations 1 and 10
  policies.adjust.set(run.exec, run.state.adjust, /*promote*/ {1}, /*suppress*/ {0}, run.layer.sizes());
  run.forward();
  REQUIRE(close(run.logits(), {{2.5, 1.5, 3, 1}, {25, 15, 30, 10}}));
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{2}, {2}}); // soft: 1 is not forced
  // [/snippet]
}

TEST_CASE("rewired") {
  // [snippet:rewired]
  using Layer = kokomo::models::Rewired<kokomo::models::Mixtral<>>;
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2},
                     {.router = {.selector = {.k = 1}}, .experts = {.intermediate = 4}});
  Kokkos::deep_copy(run.parameters.adjust.delta, 0); // of a new request
  run.set_logits({{std::log(3), 0}, {0, std::log(3)}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}});
  REQUIRE(close(run.weights(), {{0.75}, {0.75}}));
  example::set(run.parameters.adjust.delta, std::log(9), 1); // as some steps on the context may leave it
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{1}, {1}}); // delta chooses
  REQUIRE(close(run.weights(), {{9.0 / 12}, {27.0 / 28}}));  // and weighs
  // [/snippet]
}

TEST_CASE("with_pheromone") {
  // [snippet:with_pheromone]
  using Layer = kokomo::models::WithPheromone<kokomo::models::Mixtral<>>;
  Layer::Policies const policies{.router = {.selector = {.k = 1}},
                                 .experts = {.intermediate = 4},
                                 .adjust = {.classes = 2, .evaporation = 0.5f, .quality = 2, .epsilon = 1}};
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2}, policies);
  Kokkos::View<kokomo::index_t*> const id("class", 2), accepted("accepted", 2);
  Kokkos::View<float*> const cost("cost", 2);
  example::set(id, 1, 1); // token 0 is of class 0, token 1 of class 1
  run.inputs.adjust.class_id = id;
  auto const trail = run.state.adjust.trail;
  Kokkos::deep_copy(trail, 1.0f);
  example::set(trail, 8, 1, 1); // class 1 remembers expert 1
  run.set_logits({{std::log(3), 0}, {std::log(3), 0}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}}); // 3 * 1 against 1 * 1, and against 1 * 8
  REQUIRE(close(run.weights(), {{3.0 / 4}, {8.0 / 11}}));

  example::set(accepted, 1, 1); // token 1's answer was accepted; it cost 0
  policies.adjust.update<float>(run.exec, run.state.adjust, run.layer.saved(run.tape).assignment, run.inputs.adjust,
                                accepted, cost);
  run.exec.fence();
  REQUIRE(host(trail)(1, 1) == 0.5f * 8 + 2); // quality / (cost + epsilon)
  REQUIRE((host(trail)(0, 0) == 0.5f && host(trail)(1, 0) == 0.5f));
  // [/snippet]
}

TEST_CASE("healed") {
  // [snippet:healed]
  using Layer = kokomo::models::Healed<kokomo::models::Mixtral<>>;
  Example<Layer> run({.tokens = 1, .hidden = 4, .experts = 4}, {.router = {.selector = {.inner = {.k = 2}}},
                                                                .gate = {.normalize = kokomo::Normalize::sum},
                                                                .experts = {.intermediate = 4}});
  run.set_logits({{std::log(4), std::log(3), std::log(2), 0}}); // 0.4, 0.3, 0.2, 0.1
  example::set(run.state.selector.failed, 1, 0);
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{1, 2}});
  REQUIRE(close(run.weights(), {{0.6, 0.4}})); // normalised over those that are left
  REQUIRE((run.status().rerouted == 1 && run.status().escalated == 0));
  Kokkos::deep_copy(run.state.selector.failed, 1);
  run.forward();
  REQUIRE(run.status().escalated == 1); // nobody is left, and it is said
  Kokkos::deep_copy(run.state.selector.failed, 0);
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}});
  // [/snippet]
}

TEST_CASE("replayed") {
  // [snippet:replayed]
  using Layer = kokomo::models::Replayed<kokomo::models::Mixtral<>>;
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2},
                     {.router = {.selector = {.inner = {.k = 1}}}, .experts = {.intermediate = 4}});
  Kokkos::View<kokomo::index_t**, Kokkos::LayoutRight> const recording("recording", 2, 1);
  run.inputs.selector.record = recording;
  run.set_logits({{std::log(3), 0}, {0, std::log(3)}});
  run.forward();
  run.inputs.selector = {};
  run.inputs.selector.replay = recording;
  run.set_logits({{0, std::log(3)}, {0, std::log(3)}}); // token 0 would choose expert 1 by now
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}});
  REQUIRE(close(run.weights(), {{0.25}, {0.75}})); // the recording's choices, this call's weights
  // [/snippet]
}

TEST_CASE("jittered") {
  // [snippet:jittered]
  using Layer = kokomo::models::Jittered<kokomo::models::Mixtral<>>;
  Example<Layer> run(
      {.tokens = 1, .hidden = 2, .experts = 2},
      {.router = {.scorer = {.epsilon = 0.1f, .seed = 3}, .selector = {.k = 1}}, .experts = {.intermediate = 4}});
  run.set_logits({{2, 1}});
  run.forward();
  REQUIRE(run.logits() == Table<double>{{2, 1}});
  run.forward(kokomo::Mode::training);
  auto const z = run.logits();
  REQUIRE((std::abs(z[0][0] - 2) <= 0.2 && std::abs(z[0][1] - 1) <= 0.1));
  REQUIRE(z != Table<double>{{2, 1}});
  run.inputs.step = 1; // draws of the next step
  run.forward(kokomo::Mode::training);
  REQUIRE(run.logits() != z);
  run.inputs.step = 0;
  run.forward(kokomo::Mode::training);
  REQUIRE(run.logits() == z);
  // [/snippet]
}
