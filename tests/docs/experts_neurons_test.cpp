// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/product_keys.hpp>

TEST_CASE("single_neuron") {
  // [snippet:single_neuron]
  using Layer = kokomo::models::Peer<>;
  Example<Layer> run({.tokens = 2, .hidden = 8, .experts = 128 * 128},
                     {.router = {.scorer = {.heads = 2, .key_size = 4}, .selector = {.k = 3, .heads = 2}},
                      .gate = {.heads = 2},
                      .experts = {.act = {.kind = kokomo::ActivationKind::gelu}}});
  run.forward();
  REQUIRE(run.chosen()[0].size() == 6); // of 16384 experts, from 2 heads of 128 + 128 logits
  REQUIRE(run.parameters.experts.up.extent(0) == 16384);
  // [/snippet]
}
