// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/adjust/additive_logits.hpp>
#include <kokomo/adjust/adjustments.hpp>
#include <kokomo/adjust/expert_mask_schedule.hpp>
#include <kokomo/adjust/logit_jitter.hpp>
#include <kokomo/adjust/no_adjustment.hpp>
#include <kokomo/adjust/pheromone.hpp>
#include <kokomo/adjust/steering.hpp>
#include <kokomo/router/top_k.hpp>

using example::set;

/// The default layer with one more policy, and experts that compile fast.
template <class... Slots>
using LayerWith =
    kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate, kokomo::NoBalancer,
                  kokomo::test::ScaleExperts, float, Kokkos::DefaultExecutionSpace, Slots...>;

TEST_CASE("no_adjustment") {
  // [snippet:no_adjustment]
  using Layer = LayerWith<kokomo::NoAdjustment>; // the default
  static_assert(!Layer::has_adjust && std::is_same_v<Layer, LayerWith<kokomo::NoAdjustment>>);
  // [/snippet]
}

TEST_CASE("additive_logits") {
  // [snippet:additive_logits]
  Example<LayerWith<kokomo::AdditiveLogits>> run({.tokens = 1, .hidden = 3, .experts = 3},
                                                 {.router = {.selector = {.k = 1}}});
  Kokkos::deep_copy(run.parameters.adjust.delta, 0); // as made: nothing changes
  run.set_logits({{1, 0, -1}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}});
  // one step on the context with everything else frozen: gradients.adjust.delta is that of delta
  run.layer.backward(run.exec, run.parameters, run.state, run.x, run.dy, run.dx, run.gradients, run.workspace,
                     run.tape);
  run.exec.fence();
  auto const d_delta = host(run.gradients.adjust.delta);
  REQUIRE(d_delta(0) + d_delta(1) + d_delta(2) == Approx(0).margin(1e-6)); // a softmax does not see a common shift
  set(run.parameters.adjust.delta, 1.5, 1);
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{1}});
  // [/snippet]
}

TEST_CASE("steering") {
  // [snippet:steering]
  Example<LayerWith<kokomo::Steering>> run(
      {.tokens = 2, .hidden = 4, .experts = 4},
      {.router = {.selector = {.k = 2}}, .adjust = {.mode = kokomo::SteeringMode::hard}});
  auto const& steering = run.layer.policies().adjust;
  steering.set(run.exec, run.state.adjust, {3}, {0}, run.layer.sizes()); // towards 3, away from 0
  run.set_logits({{4, 3, 2, 1}, {0, 1, 2, 3}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{3, 1}, {3, 2}});
  REQUIRE_THROWS_AS(steering.set(run.exec, run.state.adjust, {0, 1, 2}, {}, run.layer.sizes()), kokomo::Error);
  // [/snippet]
}

TEST_CASE("expert_mask_schedule") {
  // [snippet:expert_mask_schedule]
  kokomo::ExpertMaskSchedule const schedule{.layers = 2, .begin = 100, .end = 200, .seed = 1};
  Example<LayerWith<kokomo::ExpertMaskSchedule>> run({.tokens = 1, .hidden = 8, .experts = 8},
                                                     {.router = {.selector = {.k = 8}}, .adjust = schedule});
  run.set_logits({{8, 7, 6, 5, 4, 3, 2, 1}});
  for (std::uint64_t const step : {0, 100, 150, 200}) {
    run.inputs.step = step;
    run.forward();
    REQUIRE(kokomo::index_t(run.chosen()[0].size()) == schedule.visible_experts(step, 8)); // 4, 4, 6, 8
  }
  // [/snippet]
}

TEST_CASE("pheromone") {
  // [snippet:pheromone]
  Example<LayerWith<kokomo::Pheromone>> run(
      {.tokens = 2, .hidden = 2, .experts = 2},
      {.router = {.selector = {.k = 1}}, .adjust = {.classes = 2, .evaporation = 0.5f, .quality = 1, .epsilon = 1}});
  Kokkos::View<kokomo::index_t*> const id("class", 2), accepted("accepted", 2);
  Kokkos::View<float*> const cost("cost", 2);
  set(id, 1, 1); // token 0 is of class 0, token 1 of class 1
  run.inputs.adjust.class_id = id;
  run.set_logits({{0.1, 0}, {0, 0.1}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}}); // all trails are at the floor: no preference

  set(accepted, 1, 0); // the answer of token 0 was accepted: expert 0 gains 1 / (0 + 1) for class 0, all trails fade
  auto const saved = run.layer.saved(run.tape);
  run.layer.policies().adjust.update<float>(run.exec, run.state.adjust, saved.assignment, run.inputs.adjust, accepted,
                                            cost);
  run.set_logits({{0, 5}, {0, 5}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}}); // log(1 / 1e-4) = 9.2 for class 0
  // [/snippet]
}

TEST_CASE("logit_jitter") {
  // [snippet:logit_jitter]
  Example<LayerWith<kokomo::LogitJitter>> run({.tokens = 1, .hidden = 3, .experts = 3},
                                              {.adjust = {.epsilon = 0.1f, .seed = 7}});
  run.set_logits({{1, 2, 4}});
  run.forward();
  REQUIRE(run.logits() == Table<double>{{1, 2, 4}});
  run.forward(kokomo::Mode::training);
  auto const z = run.logits()[0];
  REQUIRE((std::abs(z[0] - 1) < 0.1 && std::abs(z[1] - 2) < 0.2 && std::abs(z[2] - 4) < 0.4));
  REQUIRE(z != std::vector<double>{1, 2, 4});
  // [/snippet]
}

TEST_CASE("adjustments") {
  // [snippet:adjustments]
  using Both = kokomo::Adjustments<kokomo::Steering, kokomo::ExpertMaskSchedule>;
  Example<LayerWith<Both>> run(
      {.tokens = 1, .hidden = 4, .experts = 4},
      {.adjust = {{{.strength = 1}, {.visible = kokomo::VisibleExperts::local, .layers = 2}}}});
  auto const& steering = std::get<0>(run.layer.policies().adjust.parts);
  steering.set(run.exec, std::get<0>(run.state.adjust.parts), {1}, {}, run.layer.sizes());
  run.set_logits({{1, 0.5, 3, 4}});
  run.forward(); // step 0: experts 0 and 1 are visible; expert 1 rises by one standard deviation, 1.43
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{1, 0}});
  // [/snippet]
}
