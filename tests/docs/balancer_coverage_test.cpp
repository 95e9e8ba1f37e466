// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/token_coverage_loss.hpp>

using kokomo::test::loss_of;

TEST_CASE("token_coverage_loss") {
  // [snippet:token_coverage_loss]
  kokomo::TokenCoverageLoss const loss{.coefficient = 1};
  REQUIRE(loss_of(loss, {.logits = {{2, 7}, {2, 7}, {2, 7}, {2, 7}}}) == Approx(1));     // all tokens alike
  REQUIRE(loss_of(loss, {.logits = {{99, 0}, {0, 99}, {99, 0}, {0, 99}}}) == Approx(1)); // each expert has its own two
  REQUIRE(loss_of(loss, {.logits = {{99, 99}, {0, 0}, {0, 0}, {0, 0}}}) == Approx(4));   // both want the first
  // [/snippet]
}
