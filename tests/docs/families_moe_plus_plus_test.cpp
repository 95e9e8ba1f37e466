// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/moe_plus_plus.hpp>

TEST_CASE("moe_plus_plus") {
  // [snippet:moe_plus_plus]
  using Layer = kokomo::models::MoePlusPlus<>;
  kokomo::Shape const shape{.tokens = 3, .hidden = 8, .experts = 4}; // and 2 constant ones, a copy, a zero: 8
  Layer::Policies lowest, next;
  lowest.experts.inner.inner.intermediate = next.experts.inner.inner.intermediate = 6;
  kokomo::models::configure_moe_plus_plus(lowest, /*constants*/ 2, /*hidden*/ 64, /*residual*/ false);
  kokomo::models::configure_moe_plus_plus(next, 2, 64, true);
  Example<Layer> below(shape, lowest), above(shape, next);
  below.forward();
  above.inputs.x = below.y;
  above.inputs.scorer.previous_logits = below.layer.saved(below.tape).scored;
  above.forward();
  for (std::size_t t = 0; t < 3; ++t) {
    auto const weights = above.weights()[t];
    REQUIRE(std::abs(weights[0] + weights[1] - 1) < 1e-6);
    for (std::size_t i = 0; i < 2; ++i)
      if (above.chosen()[t][i] == 7) REQUIRE(weights[i] == 0); // the zero expert
  }
  // [/snippet]
}
