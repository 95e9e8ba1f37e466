// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/disagreement_loss.hpp>

using kokomo::test::Exec;
using kokomo::test::gradient_of;
using kokomo::test::loss_of;
using kokomo::test::Rows;
using kokomo::test::to_device;

TEST_CASE("disagreement_loss") {
  // [snippet:disagreement_loss]
  kokomo::DisagreementLoss<double, Exec> const loss{
      .outputs = kokomo::OwnedTensor<double, Exec>("outputs", 2, 2, 3), // 2 experts, 2 tokens, 3 symbols
      .targets = kokomo::OwnedVector<kokomo::index_t, Exec>("targets", 2)};
  to_device(std::vector<double>{0, 5, 0, 5, 0, 0,  // expert 0 says symbol 1, then 0
                                5, 0, 0, 5, 0, 0}, // expert 1 says 0 twice
            loss.outputs);                         // the targets are 0: the second expert is right about token 0
  REQUIRE(loss_of(loss, {.logits = {{0, 0}, {0, 0}}}) == Approx(std::log(2)));
  REQUIRE(gradient_of(loss, {.logits = {{0, 0}, {0, 0}}}) == Rows{{0.5, -0.5}, {0, 0}});
  // [/snippet]
}
