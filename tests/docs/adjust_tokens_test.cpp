// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/batch_routing.hpp>

TEST_CASE("token_softmax") {
  // [snippet:token_softmax]
  using Layer = kokomo::models::ExpertSelectionMesh<>;
  Example<Layer> run({.tokens = 4, .hidden = 2, .experts = 2},
                     {.router = {.selector = {.places = 2}}, .experts = {.intermediate = 4}});
  run.set_logits({{3, 3}, {1, 0}, {0, 1}, {0, 0}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}, {0}, {1}, {}});
  double const sum = std::exp(3) + std::exp(1) + 2; // over the tokens, the same for both experts
  REQUIRE(close(run.weights(),
                {{std::exp(3) / sum / 2, std::exp(3) / sum / 2}, {std::exp(1) / sum}, {std::exp(1) / sum}, {}}));
  // [/snippet]
}
