// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/adaptive_routing.hpp>

TEST_CASE("lora_mixer") {
  // [snippet:lora_mixer]
  using Layer = kokomo::models::LoraMixer<>;
  Layer::Policies policies{.router = {.selector = {.k = 3}}, .experts = {.intermediate = 2}}; // rank 2
  using Anchor = decltype(Layer::Parameters::experts);
  Layer::Exec const exec;
  Anchor const anchor(kokomo::Allocator<Layer::Exec>(exec), policies.experts, {.hidden = 5, .weighted = 4});
  policies.balancer = kokomo::models::lora_mixer_balance(/*product*/ 0.5f, /*entropy*/ 0.25f, /*k*/ 3, /*experts*/ 4,
                                                         /*preserve*/ 0.125f, anchor);
  Example<Layer> run({.tokens = 3, .hidden = 5, .experts = 4}, policies);
  Kokkos::deep_copy(anchor.up, run.parameters.experts.up); // what the adapters were before
  Kokkos::deep_copy(anchor.down, run.parameters.experts.down);
  example::fill(run.parameters.router.weight, 0); // equal logits
  run.forward(kokomo::Mode::training);
  REQUIRE(close({run.weights()[0]}, {{0.25, 0.25, 0.25}})); // of the softmax over all four
  double const even = 0.5 / 4 + 0.25 * std::log(4.0);
  REQUIRE(run.loss() == Approx(even));
  example::set(run.parameters.experts.up, host(anchor.up)(0, 0, 0) + 2, 0, 0, 0);
  run.forward(kokomo::Mode::training);
  REQUIRE(run.loss() == Approx(even + 0.125 * 4)); // squared distance from the anchor
  // [/snippet]
}

TEST_CASE("same") {
  // [snippet:same]
  using Layer = kokomo::models::Same<>;
  Example<Layer> run({.tokens = 1, .hidden = 2, .experts = 2},
                     {.router = {.selector = {.k = 2}}, .experts = {.intermediate = 1}}); // rank 1
  example::fill(run.parameters.experts.up, 0);
  example::fill(run.parameters.experts.down, 0);
  for (int e = 0; e < 2; ++e) { // adapter e keeps component e of x
    example::set(run.parameters.experts.up, 1, e, 0, e);
    example::set(run.parameters.experts.down, 1, e, e, 0);
  }
  run.set_logits({{std::log(3.0), 0}}); // weights 3/4 and 1/4
  run.forward();
  REQUIRE(close(run.weights(), {{0.75, 0.25}}));
  REQUIRE(close(run.output(), {{0.75 * std::log(3.0), 0}})); // merged matrices would weigh twice, by 9/16
  // [/snippet]
}
