// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/preference_loss.hpp>
#include <kokomo/router/escalate.hpp>

using kokomo::test::Exec;
using kokomo::test::loss_of;

TEST_CASE("preference_loss") {
  // [snippet:preference_loss]
  kokomo::PreferenceLoss<Exec> loss{.target = kokomo::OwnedVector<double, Exec>("target", 1)};
  double const wins = kokomo::win_probability(8, 4, 5, 7); // of the heavy expert: 7 of 10 successes against 4 of 10
  Kokkos::deep_copy(loss.target, wins);
  // logits of a router that gives it two chances in three
  double const expected = -wins * std::log(2.0 / 3) - (1 - wins) * std::log(1.0 / 3);
  REQUIRE(loss_of(loss, {.logits = {{0, std::log(2.0)}}}) == Approx(expected));
  // [/snippet]
}
