// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_MODELS_PRESET_HPP
#define KOKOMO_TESTS_MODELS_PRESET_HPP

#include <support/layer_fixture.hpp>
#include <support/loss_check.hpp>
#include <support/scale_experts.hpp>

#include <map>

namespace kokomo::test {

/// The weight of each expert that a token chose.
using Weights = std::vector<std::map<int, double>>;

/// rows W^T
inline Rows products(Rows const& rows, Rows const& weight) {
  Rows out(rows.size(), Row(weight.size(), 0.0));
  for (std::size_t t = 0; t < rows.size(); ++t)
    for (std::size_t e = 0; e < weight.size(); ++e)
      for (std::size_t h = 0; h < rows[t].size(); ++h) out[t][e] += rows[t][h] * weight[e][h];
  return out;
}
template <class V> Rows matrix_of(V const& view) {
  return in_rows(in_double(to_host(view)), view.extent(0));
}

/// Softmax over the chosen of a token's logits.
inline std::map<int, double> softmax_over(Row const& z, std::vector<std::size_t> const& chosen) {
  double sum = 0;
  for (auto const e : chosen) sum += std::exp(z[e]);
  std::map<int, double> weights;
  for (auto const e : chosen) weights[int(e)] = std::exp(z[e]) / sum;
  return weights;
}

/// A layer over ScaleExperts chose and weighed as expected, and its output is sum_e w_e scale_e x. 1e-12: products and sums
/// of a dozen terms in another order.
template <class F> void check_preset(F const& f, Weights const& expected) {
  auto const out = f.result();
  auto const x = matrix_of(f.x), scale = matrix_of(f.parameters.experts.scale);
  Rows y(x.size(), Row(x[0].size(), 0.0));
  for (std::size_t t = 0; t < x.size(); ++t) {
    std::map<int, double> weights;
    for (std::size_t i = 0; i < out.choice[t].size(); ++i)
      if (out.choice[t][i] != none) weights[out.choice[t][i]] += out.weights[t][i];
    REQUIRE(weights.size() == expected[t].size());
    for (auto const& [e, weight] : expected[t]) {
      REQUIRE(weights.count(e) == 1);
      REQUIRE(std::abs(weights[e] - weight) <= 1e-12 * (1 + std::abs(weight)));
      for (std::size_t h = 0; h < x[t].size(); ++h) y[t][h] += weight * scale[std::size_t(e)][h] * x[t][h];
    }
  }
  REQUIRE(relative_error(flat(out.y), flat(y)) <= 1e-12);
}

} // namespace kokomo::test

#endif
