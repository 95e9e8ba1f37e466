// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>

#include <kokomo/adjust/top_k_shares.hpp>
#include <kokomo/router/expert_choice.hpp>

using kokomo::test::RoutingFixture;

TEST_CASE("top_k_shares") {
  // [snippet:top_k_shares]
  kokomo::TopKShares const policy{.k = 1, .over = kokomo::ShareOver::experts};
  kokomo::ExpertChoice const selector{.places = 2};
  RoutingFixture<> f({{2, 1}, {0, 3}, {1, 0}}); // tokens 0 and 2 choose expert 0, token 1 expert 1
  f.prepare_for(selector);
  kokomo::Matrix<double, RoutingFixture<>::Exec> const logits(f.logits);
  policy.adjust<double>(f.exec, {}, f.routing, {}, {}, logits, f.saved_of(policy));
  f.select<kokomo::IdentityScore>(selector);
  // expert 1 takes two tokens all the same: after the one that chose it the first of those that did not
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{0, 1}, {1}, {0}});
  // [/snippet]
}
