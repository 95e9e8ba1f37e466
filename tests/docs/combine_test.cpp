// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/combine/normalized_sum.hpp>
#include <kokomo/combine/weighted_sum.hpp>
#include <kokomo/experts/with_identity.hpp>
#include <kokomo/gate/constant.hpp>

TEST_CASE("weighted_sum") {
  // [snippet:weighted_sum]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<2>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, kokomo::WithIdentity<kokomo::SwiGluExperts>>;
  // Two identity experts beside one with weights: y = scale * routed_scale * (1 x + 1 x) + bias.
  Example<Layer> run({.tokens = 1, .hidden = 3, .experts = 1},
                     {.experts = {.inner = {.intermediate = 4}, .identity = 2},
                      .combine = {.routed_scale = 3, .scale = 0.5f, .bias = true}});
  Kokkos::deep_copy(run.parameters.combine.bias, 10);
  run.set_logits({{0, 1, 2}});
  run.forward();
  REQUIRE(close(run.output(), {{10, 3 * 1 + 10, 3 * 2 + 10}}));
  // [/snippet]
}

TEST_CASE("normalized_sum") {
  // [snippet:normalized_sum]
  using Layer =
      kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<2>>, kokomo::SigmoidGate, kokomo::NoBalancer,
                    kokomo::SwiGluExperts, float, Kokkos::DefaultExecutionSpace, kokomo::NormalizedSum>;
  Example<Layer> run({.tokens = 1, .hidden = 6, .experts = 3},
                     {.experts = {.intermediate = 8}, .combine = {.epsilon = 0}});
  Kokkos::deep_copy(run.parameters.combine.norm, 2);
  run.forward();
  auto const y = run.output();
  double mean_square = 0;
  for (double const value : y[0]) mean_square += value * value / 6;
  REQUIRE(mean_square == Approx(4)); // the norm's weight squared
  // [/snippet]
}
