// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_LOSS_CHECK_HPP
#define KOKOMO_TESTS_SUPPORT_LOSS_CHECK_HPP

#include <support/routing_fixture.hpp>

#include <kokomo/router/top_k.hpp>

namespace kokomo::test {

/// A batch of logits of which the layer chose the `k` best a token.
struct Batch {
  Rows logits;
  int k = 1;
  std::vector<index_t> mask{};
  Row bias{};           ///< of the selection
  index_t weighted = 0; ///< experts with weights; 0: all
  Mode mode = Mode::training;
};

RoutingFixture<> fixture_of(Batch const& batch);

/// A balancer's loss on a batch.
template <class Balancer> double loss_of(Balancer const& balancer, Batch const& batch) {
  auto f = fixture_of(batch);
  return f.observe(balancer, f.state_of(balancer), f.saved_of(balancer));
}

/// d loss / d logits.
template <class Balancer> Rows gradient_of(Balancer const& balancer, Batch const& batch) {
  auto f = fixture_of(batch);
  auto const saved = f.saved_of(balancer);
  f.observe(balancer, f.state_of(balancer), saved);
  return f.loss_gradient(balancer, saved);
}

void check_loss_gradient(Rows const& gradient, Rows const& differences);
/// The gradient equals central differences: 1e-8 is h^2 times a third derivative of order one, and rounding over h.
template <class Balancer> void check_loss_gradient(Balancer const& balancer, Batch const& batch) {
  auto const differences = logit_differences(batch.logits, [&](Rows const& logits) {
    auto moved = batch;
    moved.logits = logits;
    return loss_of(balancer, moved);
  });
  check_loss_gradient(gradient_of(balancer, batch), differences);
}

/// Numbers in (-2, 2) that depend on the seed alone.
Rows random_logits(std::size_t tokens, std::size_t experts, unsigned seed = 1);

/// Token t prefers the experts t, t + stride, t + 2 stride, ... (k of them, modulo the experts) by `by`, the first ones
/// more: every expert is chosen equally often and has the same mean probability if tokens are a multiple of experts.
Rows balanced_logits(std::size_t tokens, std::size_t experts, std::size_t k, double by = 1, std::size_t stride = 1);

Row softmax(Row z);

/// The k largest of z, first of equals first.
std::vector<std::size_t> best(Row const& z, int k);

} // namespace kokomo::test

#endif
