// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>
#include <support/scorer_fixture.hpp>

#include <kokomo/router/window_scorer.hpp>

using kokomo::test::ScorerFixture;
using kokomo::test::to_device;

TEST_CASE("window_scorer") {
  // [snippet:window_scorer]
  ScorerFixture<kokomo::WindowScorer<kokomo::LinearScorer>> run({.tokens_per_sequence = 5, .windows = 2}, 5, 1, 1);
  to_device(std::vector<double>{1, 3, 5, 9, 100}, run.x); // windows (1, 3) and (5, 9); one token is left over
  to_device(std::vector<double>{1}, run.parameters.weight);
  for (auto const& token : run.forward()) REQUIRE(token[0] == Approx((2.0 + 7.0) / 2));
  // [/snippet]
}
