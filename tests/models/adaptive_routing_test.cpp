// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "preset.hpp"

#include <kokomo/models/adaptive_routing.hpp>
#include <kokomo/models/switch_transformers.hpp>

#include <set>

/// Presets whose tokens take as many experts as they need, or experts that no logit decides, as whole layers.

namespace adaptive_routing_test {

using namespace kokomo;
using namespace kokomo::test;

TEST_CASE("ReMoe: every expert with a positive logit, weighed by it, and an L1 term with the present coefficient") {
  using Layer = models::ReMoe<double, Exec, ScaleExperts>;
  Fixture<Layer> f({.tokens = 9, .hidden = 4, .experts = 5}, {.balancer = {.target = 2, .initial = 0.25f, .factor = 2}},
                   3);
  f.mode = Mode::training;
  f.forward();
  auto const z = products(matrix_of(f.x), matrix_of(f.parameters.router.weight));
  Weights expected(9);
  Row active(5, 0.0), mass(5, 0.0);
  double chosen = 0;
  for (std::size_t t = 0; t < 9; ++t)
    for (std::size_t e = 0; e < 5; ++e)
      if (z[t][e] > 0) expected[t][int(e)] = z[t][e], active[e] += 1, mass[e] += z[t][e], ++chosen;
  check_preset(f, expected);
  double loss = 0;
  for (std::size_t e = 0; e < 5; ++e) loss += 0.25 * 5 / 2 * (active[e] / 9) * (mass[e] / 9);
  REQUIRE(f.result().loss == Approx(loss).epsilon(1e-13));

  f.layer.step(f.exec, f.state);
  f.forward();
  double const lambda = chosen > 2 * 9 ? 2 : 0.5;
  REQUIRE(chosen != 2 * 9);
  REQUIRE(f.result().loss == Approx(lambda * loss).epsilon(1e-13));
}

TEST_CASE("DynaMoe: logits above a percentile of the batch, softmax over them, and at least one expert") {
  using Layer = models::DynaMoe<double, Exec, ScaleExperts>;
  Fixture<Layer> f({.tokens = 7, .hidden = 4, .experts = 6}, {.router = {.selector = {.tau = 0.75f}}}, 5);
  f.forward();
  auto const z = products(matrix_of(f.x), matrix_of(f.parameters.router.weight));
  Row all = flat(z);
  std::sort(all.begin(), all.end());
  double const place = 0.75 * 41; // of 42 logits
  double const threshold = all[30] + (place - 30) * (all[31] - all[30]);
  Weights expected;
  std::set<std::size_t> counts;
  for (auto const& row : z) {
    auto const above = std::size_t(std::count_if(row.begin(), row.end(), [&](double v) { return v > threshold; }));
    counts.insert(above);
    expected.push_back(softmax_over(row, best(row, int(std::max(above, std::size_t(1))))));
  }
  REQUIRE(counts.size() > 1); // dynamic, as top-k is not
  check_preset(f, expected);
}

TEST_CASE("HashLayer: the table's expert of a token id, with the weight one, whatever x") {
  using Layer = models::HashLayer<double, Exec, ScaleExperts>;
  Fixture<Layer> f({.tokens = 6, .hidden = 4, .experts = 3}, {.router = {.selector = {.vocabulary = 4}}}, 2);
  to_device(std::vector<index_t>{2, 0, 1, 2}, f.state.selector.table);
  f.set_token_ids({3, 1, 2, 1, 7, 0}); // 7 is in no table
  Weights const expected{{{2, 1.0}}, {{0, 1.0}}, {{1, 1.0}}, {{0, 1.0}}, {}, {{2, 1.0}}};
  f.forward();
  check_preset(f, expected);
  REQUIRE(f.layer.status(f.exec, f.tape).invalid_ids == 1);
  f.fill(f.x);
  f.forward();
  check_preset(f, expected);
}

TEST_CASE("ReMix: draws without replacement in training, the k best in inference, all of one weight") {
  using Layer = models::ReMix<double, Exec, ScaleExperts>;
  Fixture<Layer> f({.tokens = 8, .hidden = 4, .experts = 6},
                   {.router = {.selector = {.k = 3}}, .gate = remix_gate(3, 8)}, 4);
  f.forward();
  double const weight = double(float(2) / (3 * 8));
  Weights expected;
  for (auto const& row : products(matrix_of(f.x), matrix_of(f.parameters.router.weight))) {
    expected.emplace_back();
    for (auto const e : best(row, 3)) expected.back()[int(e)] = weight;
  }
  check_preset(f, expected);
  f.mode = Mode::training;
  std::set<std::vector<int>> draws;
  for (f.step = 0; f.step < 20; ++f.step) {
    f.forward();
    auto const choice = f.result().choice;
    draws.insert(choice[0]);
    Weights drawn;
    for (auto const& token : choice) {
      drawn.emplace_back();
      for (int const e : token) drawn.back()[e] = weight;
      REQUIRE(drawn.back().size() == 3); // none twice
    }
    check_preset(f, drawn);
  }
  REQUIRE(draws.size() > 1);
}

static_assert(models::ReMoe<>::causal && models::HashLayer<>::causal && models::ReMix<>::causal);
static_assert(!models::DynaMoe<>::causal);
static_assert(models::DynaMoe<float, Exec, ScaleExperts, PercentileScope::token>::causal); // top-k in disguise
static_assert(!models::SwitchTransformers<>::causal); // a capacity of a share of the batch, which the type cannot know

} // namespace adaptive_routing_test
