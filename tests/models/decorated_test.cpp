// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "preset.hpp"

#include <kokomo/models/decorated.hpp>
#include <kokomo/models/mixtral.hpp>

/// Decorators around published blocks, and the blocks that are one of them, as whole layers.

namespace {

using namespace kokomo;
using namespace kokomo::test;

using Block = models::Mixtral<double, Exec>;
static_assert(std::is_same_v<models::Steered<Block>::Adjust, Steering>);
static_assert(std::is_same_v<models::Rewired<Block>::Adjust, AdditiveLogits>);
static_assert(std::is_same_v<models::WithPheromone<Block>::Adjust, Pheromone>);
static_assert(std::is_same_v<models::Healed<Block>::Selector, SelfHealing<TopK<>>>);
static_assert(std::is_same_v<models::Replayed<Block>::Selector, Replay<TopK<>>>);
static_assert(std::is_same_v<models::Jittered<Block>::Scorer, InputJitter<LinearScorer>>);
static_assert(std::is_same_v<models::Steered<models::StMoe<>>::Capacity, Capacity>); // other slots stay

double normalizer(Row const& z) {
  double sum = 0;
  for (double const v : z) sum += std::exp(v);
  return sum;
}

TEST_CASE(
    "SwitchTraining: the first C tokens of each expert in each sequence, their probability, the loss before drops") {
  using Layer = models::SwitchTraining<double, Exec, ScaleExperts>;
  Layer::Policies policies;
  policies.router.scorer.epsilon = 0; // as in inference
  models::configure_switch_training(policies, 1.25, 20);
  Fixture<Layer> f({.tokens = 40, .hidden = 3, .experts = 4}, policies, 8);
  f.mode = Mode::training;
  f.forward();
  auto const z = products(matrix_of(f.x), matrix_of(f.parameters.router.weight));
  auto const x = matrix_of(f.x), scale = matrix_of(f.parameters.experts.scale);
  std::size_t const places = 6; // max(4, int(1.25 * 20 / 4))
  Rows y(40, Row(3, 0.0));
  double loss = 0;
  int dropped = 0;
  for (std::size_t begin : {0, 20}) {
    std::vector<std::size_t> taken(4, 0);
    Row picks(4, 0.0), mass(4, 0.0);
    for (std::size_t t = begin; t < begin + 20; ++t) {
      auto const e = best(z[t], 1)[0];
      picks[e] += 1;
      for (std::size_t i = 0; i < 4; ++i) mass[i] += std::exp(z[t][i]) / normalizer(z[t]);
      if (taken[e]++ >= places) {
        ++dropped;
        continue;
      }
      for (std::size_t h = 0; h < 3; ++h) y[t][h] = std::exp(z[t][e]) / normalizer(z[t]) * scale[e][h] * x[t][h];
    }
    for (std::size_t e = 0; e < 4; ++e) loss += 0.01 / 2 * 4 * picks[e] / 20 * mass[e] / 20;
  }
  auto const out = f.result();
  REQUIRE(dropped > 0);
  REQUIRE(out.dropped == dropped);
  REQUIRE(relative_error(flat(out.y), flat(y)) <= 1e-12); // sums of a few terms in another order
  REQUIRE(out.loss == Approx(loss).epsilon(1e-7));        // the coefficient is a float
}

TEST_CASE("ReXMoe: top-k among the visible experts of a pool, weighed by the softmax over all of it") {
  using Layer = models::ReXMoe<double, Exec, ScaleExperts>;
  Fixture<Layer> f({.tokens = 6, .hidden = 3, .experts = 8},
                   {.router = {.selector = {.k = 2}}, .adjust = {.layers = 4, .begin = 10, .end = 30, .seed = 5}}, 3);
  auto const z = products(matrix_of(f.x), matrix_of(f.parameters.router.weight));
  std::size_t before = 0;
  for (auto const& [step, visible] : {std::pair(10, 2), std::pair(20, 5), std::pair(31, 8)}) {
    f.step = std::uint64_t(step); // 2, floor((1 + 3 * 10 / 20) 2) = 5, all 8
    f.forward();
    auto const mask = to_host(f.layer.saved(f.tape).adjust.mask);
    REQUIRE(std::count(mask.begin(), mask.end(), 1) == visible);
    Weights expected(6);
    for (std::size_t t = 0; t < 6; ++t) {
      auto masked = z[t];
      for (std::size_t e = 0; e < 8; ++e)
        if (mask[e] == 0) masked[e] = -1e30;
      for (auto const e : best(masked, 2)) expected[t][int(e)] = std::exp(z[t][e]) / normalizer(z[t]);
    }
    check_preset(f, expected);
    REQUIRE(std::size_t(visible) > before);
    before = std::size_t(visible);
  }
}

TEST_CASE("ReXMoe: a pool is as large as its layers' experts, and its gradient comes from all layers that share it") {
  using Layer = models::ReXMoe<double, Exec, ScaleExperts>;
  Layer::Policies policies{.router = {.selector = {.k = 2}}, .adjust = {.layers = 2, .begin = 0, .end = 1}};
  // two layers of four experts each, one pool of eight
  Fixture<Layer> first({.tokens = 5, .hidden = 3, .experts = 8}, policies, 3),
      second({.tokens = 5, .hidden = 3, .experts = 8}, policies, 4);
  second.parameters.experts = first.parameters.experts; // the same Views
  second.gradients.experts = first.gradients.experts;
  first.step = second.step = 5; // all are visible
  auto const size = [](auto const& view) { return view.size(); };
  REQUIRE(size(first.parameters.experts.scale) == 2 * (4 * 3));            // as many as without a pool, in all
  REQUIRE(size(first.parameters.router.weight) == 2 * std::size_t(4 * 3)); // each router has twice the rows
  auto const loss = [&] {                                                  // of both layers, one after the other
    first.forward();
    to_device(to_host(first.y), second.x);
    second.forward();
    return reference::dot(tensor(second.y).read().data(), tensor(second.dy).read());
  };
  loss();
  second.backward();
  to_device(to_host(second.dx), first.dy);
  first.backward(Write::add); // to what the second layer wrote
  auto const gradient = in_double(to_host(first.gradients.experts.scale));
  auto const values = in_double(to_host(first.parameters.experts.scale));
  Row differences;
  double const h = 1e-6;
  for (std::size_t i = 0; i < values.size(); ++i) {
    double slope = 0;
    for (double const sign : {1.0, -1.0}) {
      auto moved = values;
      moved[i] += sign * h;
      to_device(moved, first.parameters.experts.scale);
      slope += sign * loss() / (2 * h);
    }
    differences.push_back(slope);
  }
  // h^2 = 1e-12 of third derivatives, and rounding, 1e-16 / 1e-6
  REQUIRE(relative_error(gradient, differences) < 1e-8);
}

TEST_CASE("SparseMixer in training can be made: two experts a token, jitter, a z-loss") {
  using Layer = models::SparseMixerTraining<float, Exec, ScaleExperts>;
  Layer const layer({.tokens = 4, .hidden = 3, .experts = 5}, {.balancer = {.coefficient = 0}});
  CHECK(layer.sizes().per_token == 2);
  CHECK(layer.policies().router.scorer.epsilon == 1e-2f);
  static_assert(Layer::causal);
  REQUIRE_THROWS_AS(Layer({.tokens = 4, .hidden = 3, .experts = 1}), Error);
}

} // namespace
