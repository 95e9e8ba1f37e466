// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/adaptive_routing.hpp>
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

TEST_CASE("autonomous") {
  // [snippet:autonomous]
  using Layer = kokomo::models::Autonomous<>;
  Example<Layer> run(
      {.tokens = 3, .hidden = 8, .experts = 4},
      {.router = {.scorer = {.width = 2}, .selector = {.k = 2}}, .experts = {.intermediate = 6, .cached = 2}});
  run.forward();
  auto const a = host(run.layer.saved(run.tape).scorer.activations); // [3, 4 experts of width 2]
  REQUIRE(close({{run.logits()[0][1]}}, {{std::hypot(a(0, 2), a(0, 3))}}));
  // [/snippet]
}
