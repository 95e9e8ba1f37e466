// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/product_keys.hpp>

TEST_CASE("key_batch_norm") {
  // [snippet:key_batch_norm]
  using Layer = kokomo::models::OmniMoeNormalized<>;
  Layer::Policies policies{.experts = {.shared = {.intermediate = 8}, .count = 1}};
  kokomo::models::configure_omni_moe_normalized(policies, /*rows*/ 2, /*k*/ 3);
  Example<Layer> run({.tokens = 4, .hidden = 5, .experts = 6}, policies); // 2 rows, 3 columns
  Kokkos::deep_copy(run.state.adjust.variance, 1.0f);
  run.forward(kokomo::Mode::training); // moves the running moments
  auto const z = run.logits();
  for (auto const& token : z) {
    REQUIRE(std::abs(std::exp(token[0]) + std::exp(token[1]) - 1) < 1e-5); // a distribution over rows
    REQUIRE(std::abs(std::exp(token[2]) + std::exp(token[3]) + std::exp(token[4]) - 1) < 1e-5);
  }
  REQUIRE(host(run.state.adjust.mean)(0) != 0);
  run.forward(kokomo::Mode::inference);
  REQUIRE(!close(run.logits(), z)); // by these, no longer by the batch's
  // [/snippet]
}
