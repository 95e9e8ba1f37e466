// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/combine/primary_cross_attention.hpp>
#include <kokomo/experts/with_identity.hpp>

TEST_CASE("primary_cross_attention") {
  // [snippet:primary_cross_attention]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<2>>, kokomo::SoftmaxGate,
                              kokomo::NoBalancer, kokomo::WithIdentity<kokomo::SwiGluExperts>, float,
                              Kokkos::DefaultExecutionSpace, kokomo::PrimaryCrossAttention>;
  Example<Layer> run({.tokens = 1, .hidden = 4, .experts = 3},
                     {.experts = {.inner = {.intermediate = 8}, .identity = 1}, .combine = {.width = 2}});
  run.set_logits({{1, 0, 0, 2}}); // the identity is the primary expert, expert 0 its peer
  run.forward();
  REQUIRE(!close(run.output(), {{1, 0, 0, 2}})); // it has heard from its peer
  example::fill(run.parameters.combine.back, 0);
  run.forward();
  REQUIRE(close(run.output(), {{1, 0, 0, 2}})); // unweighted
  // [/snippet]
}
