// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>
#include <support/scorer_fixture.hpp>

#include <kokomo/router/expert_choice.hpp>
#include <kokomo/router/predicted_scorer.hpp>

using kokomo::test::RoutingFixture;
using kokomo::test::ScorerFixture;

TEST_CASE("predicted_scorer") {
  // [snippet:predicted_scorer]
  ScorerFixture<kokomo::PredictedScorer<>> run({.predictor = {.hidden = 8}}, 4, 5, 1); // 4 tokens, one expert
  auto const z = run.forward();
  REQUIRE(z[0].size() == 2); // the router's logit and the predictor's

  RoutingFixture<> f({{3, -1}, {2, 1}, {1, 5}, {0, -2}});
  f.sizes.experts = 1;
  f.routing.mode = kokomo::Mode::training;
  kokomo::ExpertChoice const choice{.places = 2, .inference = kokomo::InferenceChoice::predicted};
  f.select<kokomo::IdentityScore>(choice);
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{0}, {0}, {}, {}}); // the two best by the first half
  f.routing.mode = kokomo::Mode::inference;
  f.select<kokomo::IdentityScore>(choice);
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{}, {0}, {0}, {}}); // those above zero in the second
  // [/snippet]
}
