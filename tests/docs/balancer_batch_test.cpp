// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/balancer/bip_balancing.hpp>

TEST_CASE("bip_balancing") {
  // [snippet:bip_balancing]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>,
                              kokomo::ScoreGate<kokomo::IdentityScore>, kokomo::BipBalancing>;
  Example<Layer> run({.tokens = 4, .hidden = 2, .experts = 2}, {.experts = {.intermediate = 4}});
  run.set_logits({{4, 0}, {3, 0}, {2, 0}, {1, 0}}); // all prefer expert 0
  run.forward(kokomo::Mode::training);
  // already the first batch: q makes the third token indifferent, and ties go to the smaller expert
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}, {0}, {1}});
  REQUIRE(close(run.weights(), {{4}, {3}, {2}, {0}})); // of the logits alone
  // [/snippet]
}
