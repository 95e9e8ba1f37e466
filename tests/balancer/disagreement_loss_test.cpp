// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/disagreement_loss.hpp>

#include <limits>

namespace disagreement_loss_test {

using namespace kokomo;
using namespace kokomo::test;

using Loss = DisagreementLoss<double, Exec>;

/// outputs[expert][token][symbol]
Loss loss_with(std::vector<Rows> const& outputs, std::vector<index_t> const& targets, float coefficient = 1) {
  std::size_t const experts = outputs.size(), tokens = outputs[0].size(), symbols = outputs[0][0].size();
  Loss loss{.coefficient = coefficient,
            .outputs = OwnedTensor<double, Exec>("outputs", experts, tokens, symbols),
            .targets = OwnedVector<index_t, Exec>("targets", targets.size())};
  Row all;
  for (auto const& of_expert : outputs)
    for (auto const& row : of_expert) all.insert(all.end(), row.begin(), row.end());
  to_device(all, loss.outputs);
  to_device(targets, loss.targets);
  return loss;
}

TEST_CASE(
    "disagreement: a loss where experts disagree alone, on the one that knows best, gradient equals differences") {
  // three experts, three symbols; what they predict:     token 0: 0 0 0   1: 0 1 2   2: 1 1 0   3: 2 2 2   4: 0 1 1
  std::vector<Rows> const outputs{{{3, 0, 1}, {2, 1, 0}, {0, 4, 1}, {0, 0, 9}, {1, 0, 0}},
                                  {{2, 1, 0}, {0, 3, 1}, {0, 2, 1}, {0, 0, 1}, {0, 5, 1}},
                                  {{9, 8, 0}, {0, 1, 3}, {2, 0, 1.5}, {1, 0, 2}, {0, 2, 1}}};
  std::vector<index_t> const targets{1, 2, 2, 0, none};
  auto const z = random_logits(5, 3, 4);
  // token 1: the third says 2. Token 2: nobody predicts 2, the third gives it most. Token 4: no target
  double expected = 0;
  for (std::size_t const t : {1, 2}) expected -= std::log(softmax(z[t])[2]) / 2;
  auto const loss = loss_with(outputs, targets, 3);
  REQUIRE(loss_of(loss, {.logits = z}) == Approx(3 * expected).epsilon(1e-12));
  auto const gradient = gradient_of(loss, {.logits = z});
  for (std::size_t const t : {0, 3, 4}) REQUIRE(gradient[t] == Row(3, 0.0));
  for (std::size_t const t : {1, 2}) REQUIRE(norm(gradient[t]) > 0.1);
  check_loss_gradient(loss, {.logits = z});
  // padding has no loss: the mean is over the other token
  REQUIRE(loss_of(loss, {.logits = z, .mask = {1, 0, 1, 1, 1}}) ==
          Approx(-3 * std::log(softmax(z[2])[2])).epsilon(1e-12));
}

TEST_CASE(
    "disagreement: all agree, targets out of range, symbols that nobody can say: nothing, and no id out of range") {
  double const never = -std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<Rows> const outputs{{{1, 0}, {1, never}, {nan, nan}, {1, 0}}, {{5, 1}, {0, 0.5}, {0, 1}, {0, 1}}};
  auto const z = random_logits(4, 2, 1);
  REQUIRE(loss_of(loss_with(outputs, {0, 2, -5, 1000000}), {.logits = z}) == 0);
  // token 1: the first cannot say 1, the second can. Token 2: the first says nothing at all. Token 3: nobody has 1000000
  double const expected = -(std::log(softmax(z[1])[1]) + std::log(softmax(z[2])[1])) / 2;
  REQUIRE(loss_of(loss_with(outputs, {0, 1, 1, 1000000}), {.logits = z}) == Approx(expected).epsilon(1e-12));
  std::vector<Rows> const silent{{{never, 1, 0}}, {{never, 0, 1}}};
  REQUIRE(loss_of(loss_with(silent, {0}), {.logits = random_logits(1, 2)}) == 0);
}

TEST_CASE("disagreement: settings") {
  std::vector<Rows> const outputs{{{1, 0}}, {{0, 1}}};
  REQUIRE_NOTHROW(loss_of(loss_with(outputs, {0}), {.logits = {{0, 0}}}));
  Sizes sizes;
  sizes.experts = 2, sizes.tokens = 1;
  REQUIRE_THROWS_AS(loss_with(outputs, {0}, -1).check(sizes), Error);
  REQUIRE_THROWS_AS(loss_with(outputs, {}).check(sizes), Error);
  sizes.experts = 3;
  REQUIRE_THROWS_AS(loss_with(outputs, {0}).check(sizes), Error);
  sizes.experts = 2, sizes.tokens = 2;
  REQUIRE_THROWS_AS(loss_with(outputs, {0, 1}).check(sizes), Error);
}

} // namespace disagreement_loss_test
