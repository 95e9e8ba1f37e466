// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_LOSS_CHECK_HPP
#define KOKOMO_TESTS_SUPPORT_LOSS_CHECK_HPP

#include <support/routing_fixture.hpp>

#include <kokomo/router/top_k.hpp>

#include <algorithm>

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

inline RoutingFixture<> fixture_of(Batch const& batch) {
  RoutingFixture<> f(batch.logits);
  if (batch.weighted > 0) f.sizes.weighted = batch.weighted;
  if (!batch.mask.empty()) f.set_token_mask(batch.mask);
  if (!batch.bias.empty()) f.set_bias(batch.bias);
  f.routing.mode = batch.mode;
  f.select<IdentityScore>(TopK<>{.k = batch.k});
  return f;
}

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

/// The gradient equals central differences: 1e-8 is h^2 times a third derivative of order one, and rounding over h.
template <class Balancer> void check_loss_gradient(Balancer const& balancer, Batch const& batch) {
  auto const differences = logit_differences(batch.logits, [&](Rows const& logits) {
    auto moved = batch;
    moved.logits = logits;
    return loss_of(balancer, moved);
  });
  auto const gradient = gradient_of(balancer, batch);
  REQUIRE(norm(flat(differences)) > 1e-6); // there is something to compare
  REQUIRE(relative_error(flat(gradient), flat(differences)) <= 1e-7);
}

/// Numbers in (-2, 2) that depend on the seed alone.
inline Rows random_logits(std::size_t tokens, std::size_t experts, unsigned seed = 1) {
  Rows rows(tokens, Row(experts));
  for (auto& row : rows)
    for (auto& z : row) {
      seed = seed * 1664525u + 1013904223u;
      z = double(seed >> 8) / (1 << 22) - 2;
    }
  return rows;
}

/// Token t prefers the experts t, t + stride, t + 2 stride, ... (k of them, modulo the experts) by `by`, the first ones
/// more: every expert is chosen equally often and has the same mean probability if tokens are a multiple of experts.
inline Rows balanced_logits(std::size_t tokens, std::size_t experts, std::size_t k, double by = 1,
                            std::size_t stride = 1) {
  Rows rows(tokens, Row(experts, 0.0));
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t j = 0; j < k; ++j) rows[t][(t + j * stride) % experts] = by * (1 + 0.1 * double(k - j));
  return rows;
}

inline Row softmax(Row z) {
  double const max = *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (auto& value : z) sum += value = std::exp(value - max);
  for (auto& value : z) value /= sum;
  return z;
}

/// The k largest of z, first of equals first.
inline std::vector<std::size_t> best(Row const& z, int k) {
  std::vector<std::size_t> order(z.size());
  for (std::size_t e = 0; e < z.size(); ++e) order[e] = e;
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return z[a] > z[b]; });
  order.resize(std::size_t(k));
  return order;
}

} // namespace kokomo::test

#endif
