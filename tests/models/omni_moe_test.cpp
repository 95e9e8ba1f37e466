// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "preset.hpp"

#include <support/finite_differences.hpp>

#include <kokomo/models/product_keys.hpp>

namespace omni_moe_test {

using namespace kokomo;
using namespace kokomo::test;

double silu(double v) {
  return v / (1 + std::exp(-v));
}

Row log_softmax(Row z) {
  double sum = 0;
  for (double const v : z) sum += std::exp(v);
  for (double& v : z) v -= std::log(sum);
  return z;
}

TEST_CASE("OmniMoe: the best pairs of the whole grid, atomic experts, and a SwiGLU for every token") {
  using Layer = models::OmniMoe<double, Exec>;
  Shape const shape{.tokens = 6, .hidden = 4, .experts = 6};
  for (auto const weight_kind : {PairWeight::selected_softmax, PairWeight::joint_probability}) {
    Layer::Policies policies;
    policies.router.scorer.rows = policies.router.selector.rows = policies.gate.rows = 2;
    policies.router.selector.k = 3;
    policies.gate.weight = weight_kind;
    policies.experts.count = 1;
    policies.experts.shared.intermediate = 3;
    Fixture<Layer> f(shape, policies, 9);
    f.forward();
    auto const x = matrix_of(f.x), both = matrix_of(f.parameters.router.weight);
    auto const up = matrix_of(f.parameters.experts.up), down = matrix_of(f.parameters.experts.down);
    auto const shared_gate_up = in_rows(in_double(to_host(f.parameters.shared.experts.gate_up)), 6);
    auto const shared_down = in_rows(in_double(to_host(f.parameters.shared.experts.down)), 4);
    auto const out = f.result();
    Rows y(6, Row(4, 0.0));
    for (std::size_t t = 0; t < 6; ++t) {
      auto const z = products({x[t]}, both)[0];
      auto const p = log_softmax({z[0], z[1]}), q = log_softmax({z[2], z[3], z[4]});
      Row grid;
      for (double const a : p)
        for (double const b : q) grid.push_back(a + b);
      auto const chosen = best(grid, 3);
      auto weights = softmax_over(grid, chosen);
      if (weight_kind == PairWeight::joint_probability)
        for (auto& [e, w] : weights) w = std::exp(grid[std::size_t(e)]);
      REQUIRE(std::vector<std::size_t>(out.choice[t].begin(), out.choice[t].end()) == chosen);
      for (std::size_t i = 0; i < 3; ++i) REQUIRE(out.weights[t][i] == Approx(weights[int(chosen[i])]).epsilon(1e-12));
      for (auto const& [e, w] : weights)
        for (std::size_t h = 0; h < 4; ++h)
          y[t][h] += w * silu(products({x[t]}, {up[std::size_t(e)]})[0][0]) * down[std::size_t(e)][h];
      auto const halves = products({x[t]}, shared_gate_up)[0]; // gate above up
      Row hidden;
      for (std::size_t i = 0; i < 3; ++i) hidden.push_back(silu(halves[i]) * halves[3 + i]);
      auto const shared = products({hidden}, shared_down)[0];
      for (std::size_t h = 0; h < 4; ++h) y[t][h] += shared[h];
    }
    REQUIRE(relative_error(flat(out.y), flat(y)) <= 1e-12); // sums of a dozen terms in another order
    check_gradients(f);
  }
}

} // namespace omni_moe_test
