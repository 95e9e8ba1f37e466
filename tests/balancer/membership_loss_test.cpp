// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>

#include <kokomo/balancer/membership_loss.hpp>
#include <kokomo/router/expert_choice.hpp>

#include <cmath>

namespace membership_loss_test {

using namespace kokomo;
using namespace kokomo::test;

TEST_CASE("the membership loss is the cross entropy of what was taken") {
  Rows const logits{{2, -1}, {0.5, 0.25}, {-3, 4}, {1, 1}};
  RoutingFixture<> f(logits);
  f.set_token_mask({1, 1, 1, 0});
  f.select<IdentityScore>(ExpertChoice{.places = 1}); // token 0 and token 2
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{0}, {}, {1}, {}});
  MembershipLoss const loss{.coefficient = 0.5f};
  auto const saved = f.saved_of(loss);
  double expected = 0;
  for (std::size_t t = 0; t < 3; ++t)
    for (std::size_t e = 0; e < 2; ++e) {
      double const s = 1 / (1 + std::exp(-logits[t][e]));
      bool const taken = (t == 0 && e == 0) || (t == 2 && e == 1);
      expected -= taken ? std::log(s) : std::log(1 - s);
    }
  REQUIRE(f.observe(loss, {}, saved) == Approx(0.5 * expected / 6));

  auto const gradient = f.loss_gradient(loss, saved);
  auto const differences = logit_differences(logits, [&](Rows const& rows) {
    to_device(flat(rows), f.logits);
    return f.observe(loss, {}, saved);
  });
  CHECK(relative_error(flat(gradient), flat(differences)) < 1e-8); // h^2 and rounding
}

TEST_CASE("the membership loss: no tokens, logits far from zero, a negative coefficient") {
  RoutingFixture<> none_left(Rows(1, Row{1}));
  none_left.set_token_mask({0});
  none_left.select<IdentityScore>(ExpertChoice{.places = 1});
  MembershipLoss const loss{};
  REQUIRE(none_left.observe(loss, {}, none_left.saved_of(loss)) == 0);
  RoutingFixture<float> far(Rows{Row{1e4}, Row{-1e4}});
  far.select<IdentityScore>(ExpertChoice{.places = 1});
  REQUIRE(far.observe(loss, {}, far.saved_of(loss)) == 0);
  REQUIRE_THROWS_AS((MembershipLoss{.coefficient = -1}.check({})), Error);
}

} // namespace membership_loss_test
