// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/focal_loss.hpp>

using kokomo::test::Exec;
using kokomo::test::loss_of;
using kokomo::test::to_device;

TEST_CASE("focal_loss") {
  // [snippet:focal_loss]
  kokomo::FocalLoss<Exec> loss{.gamma = 2, .labels = kokomo::OwnedVector<kokomo::index_t, Exec>("labels", 3)};
  to_device(std::vector<kokomo::index_t>{1, kokomo::none, 0}, loss.labels);
  // p = 1/2 for the first label, 1/4 for the last; the second token has none
  double const expected = -(0.25 * std::log(0.5) + 0.5625 * std::log(0.25)) / 2;
  REQUIRE(loss_of(loss, {.logits = {{0, 0}, {7, 0}, {0, std::log(3.0)}}}) == Approx(expected));
  // [/snippet]
}
