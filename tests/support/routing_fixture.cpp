// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>
#include <support/routing_fixture.hpp>

#include <algorithm>
#include <cmath>

namespace kokomo::test {

template struct RoutingFixture<double, Exec>;
template struct RoutingFixture<float, Exec>;

Rows logit_differences(Rows logits, std::function<double(Rows const&)> const& f, double h) {
  Rows differences = logits;
  for (std::size_t t = 0; t < logits.size(); ++t)
    for (std::size_t e = 0; e < logits[t].size(); ++e) {
      double const original = logits[t][e];
      logits[t][e] = original + h;
      double const above = f(logits);
      logits[t][e] = original - h;
      double const below = f(logits);
      logits[t][e] = original;
      differences[t][e] = (above - below) / (2 * h);
    }
  return differences;
}

RoutingFixture<> fixture_of(Batch const& batch) {
  RoutingFixture<> f(batch.logits);
  if (batch.weighted > 0) f.sizes.weighted = batch.weighted;
  if (!batch.mask.empty()) f.set_token_mask(batch.mask);
  if (!batch.bias.empty()) f.set_bias(batch.bias);
  f.routing.mode = batch.mode;
  f.select<IdentityScore>(TopK<>{.k = batch.k});
  return f;
}

void check_loss_gradient(Rows const& gradient, Rows const& differences) {
  REQUIRE(norm(flat(differences)) > 1e-6); // there is something to compare
  REQUIRE(relative_error(flat(gradient), flat(differences)) <= 1e-7);
}

Rows random_logits(std::size_t tokens, std::size_t experts, unsigned seed) {
  Rows rows(tokens, Row(experts));
  for (auto& row : rows)
    for (auto& z : row) {
      seed = seed * 1664525u + 1013904223u;
      z = double(seed >> 8) / (1 << 22) - 2;
    }
  return rows;
}

Rows balanced_logits(std::size_t tokens, std::size_t experts, std::size_t k, double by, std::size_t stride) {
  Rows rows(tokens, Row(experts, 0.0));
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t j = 0; j < k; ++j) rows[t][(t + j * stride) % experts] = by * (1 + 0.1 * double(k - j));
  return rows;
}

Row softmax(Row z) {
  double const max = *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (auto& value : z) sum += value = std::exp(value - max);
  for (auto& value : z) value /= sum;
  return z;
}

std::vector<std::size_t> best(Row const& z, int k) {
  std::vector<std::size_t> order(z.size());
  for (std::size_t e = 0; e < z.size(); ++e) order[e] = e;
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return z[a] > z[b]; });
  order.resize(std::size_t(k));
  return order;
}

} // namespace kokomo::test
