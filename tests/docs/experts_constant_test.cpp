// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/experts/with_constant.hpp>
#include <kokomo/gate/constant.hpp>

TEST_CASE("with_constant") {
  // [snippet:with_constant]
  using Experts = kokomo::WithConstant<kokomo::SwiGluExperts>;
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, Experts>;
  // Expert 0 has weights, 1 and 2 are constant: 3 logits.
  Example<Layer> run({.tokens = 2, .hidden = 3, .experts = 1}, {.experts = {.inner = {.intermediate = 8}, .count = 2}});
  run.set_logits({{0, 2, 1}, {0, 1, 2}});
  Kokkos::deep_copy(run.parameters.experts.constant_router, 0.0f); // half of each
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{1}, {2}});
  auto const v = host(run.parameters.experts.constant);
  REQUIRE(close(run.output(), {{v(0, 0) / 2, 1 + v(0, 1) / 2, 0.5 + v(0, 2) / 2},
                               {v(1, 0) / 2, 0.5 + v(1, 1) / 2, 1 + v(1, 2) / 2}}));
  // [/snippet]
}
