// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/adaptive_routing.hpp>

TEST_CASE("adaptive_routing") {
  // [snippet:adaptive_routing]
  using Layer = kokomo::models::TopPRouting<>;
  Example<Layer> run({.tokens = 3, .hidden = 4, .experts = 4},
                     {.router = {.selector = {.p = 0.8f}},
                      .balancer = {{kokomo::top_p_loss(1e-2f), {.coefficient = 1e-4f}}},
                      .experts = {.intermediate = 8}});
  run.set_logits({{6, 0, 0, 0}, {1, 1, 0, -9}, {0, 0, 0, 0}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0, 1}, {0, 1, 2, 3}}); // 0.99; 0.42 + 0.42; a quarter each
  REQUIRE(run.loss() > 0);
  // [/snippet]
}
