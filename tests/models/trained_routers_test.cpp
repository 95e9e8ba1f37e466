// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "preset.hpp"

#include <support/finite_differences.hpp>

#include <kokomo/models/adaptive_routing.hpp>
#include <kokomo/models/balanced_training.hpp>

/// Presets that are a router and what trains it, as whole layers.

namespace trained_routers_test {

using namespace kokomo;
using namespace kokomo::test;

TEST_CASE("Magnet: a small network scores the interaction, the best are normalised, the first stage is coverage") {
  using Layer = models::Magnet<double, Exec, ScaleExperts>;
  Fixture<Layer> f({.tokens = 6, .hidden = 3, .experts = 4, .router_hidden = 5},
                   {.router = {.scorer = {.hidden = 7}, .selector = {.k = 2}}, .balancer = {.coverage = 0.5f}}, 4);
  f.mode = Mode::training;
  f.forward();
  auto hidden = products(matrix_of(f.router_input), matrix_of(f.parameters.router.hidden_weight));
  for (auto& row : hidden)
    for (double& v : row) v = std::tanh(v);
  auto const z = products(hidden, matrix_of(f.parameters.router.weight));
  Weights expected;
  Row mean(4, 0.0);
  for (auto const& row : z) {
    expected.push_back(softmax_over(row, best(row, 2)));
    for (std::size_t e = 0; e < 4; ++e) mean[e] += softmax(row)[e] / 6;
  }
  check_preset(f, expected);
  double loss = std::log(4.0);
  for (double const p : mean) loss += p * std::log(p);
  REQUIRE(f.result().loss == Approx(0.5 * loss).epsilon(1e-12));
  check_gradients(f);
}

static_assert(std::is_same_v<models::Coupled<models::Mixtral<>>::Balancer, ExpertRouterCoupling>);
static_assert(std::is_same_v<models::Same<>::Experts, models::AdapterExperts>);
static_assert(std::is_same_v<models::Same<>::Balancer, NoBalancer> && models::Same<>::causal);

TEST_CASE("Coupled: the same output bit for bit, and a loss that no token changes") {
  using Plain = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, double, Exec>;
  using Coupled = models::Coupled<Plain>;
  Shape const shape{.tokens = 6, .hidden = 4, .experts = 3};
  Fixture<Plain> plain(shape, {.experts = {.intermediate = 2}}, 5);
  Fixture<Coupled> coupled(shape, {.experts = {.intermediate = 2}}, 5);
  coupled.mode = Mode::training;
  plain.forward(), coupled.forward();
  auto const out = coupled.result();
  REQUIRE(out.y == plain.result().y);
  REQUIRE(out.loss > 0);
  coupled.fill(coupled.x);
  coupled.forward();
  REQUIRE(coupled.result().loss == out.loss);
}

} // namespace trained_routers_test
