// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/layer_fixture.hpp>
#include <support/routing_fixture.hpp>

#include <kokomo/models/batch_routing.hpp>
#include <kokomo/schedule/step_schedule.hpp>

#include <random>

/// Nucleus-Image's layer: a timestep that the router reads as a feature, experts that choose, a shared expert for the rest.

namespace nucleus_image_test {

using namespace kokomo;
using namespace kokomo::test;
using Layer = models::NucleusImage<double, Exec>;

std::size_t const images = 3, pixels = 16, hidden = 4, embedding = 2;

Fixture<Layer> fixture(double factor) {
  Layer::Policies policies;
  models::configure_nucleus_image(policies, factor, offset_t(pixels));
  policies.experts.routed.intermediate = 3, policies.experts.shared.intermediate = 3;
  return Fixture<Layer>({.tokens = offset_t(images * pixels),
                         .hidden = offset_t(hidden),
                         .experts = 8,
                         .router_hidden = offset_t(embedding + hidden)},
                        policies, 7);
}
/// Of experts, before drops: there are none.
std::vector<offset_t> loads(Fixture<Layer> const& f) {
  auto const offsets = to_host(f.layer.saved(f.tape).assignment.expert_offsets);
  std::vector<offset_t> counts;
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) counts.push_back(offsets[e + 1] - offsets[e]);
  return counts;
}

TEST_CASE("Nucleus-Image: equal loads, gates that sum to 2.5, the shared expert alone for who is not chosen") {
  auto f = fixture(1); // C = 16 / 8
  f.forward();
  REQUIRE(loads(f) == std::vector<offset_t>(8, offset_t(images) * 2));
  auto const out = f.result();
  std::size_t uncovered = 0;
  for (std::size_t t = 0; t < out.weights.size(); ++t) {
    double sum = 0;
    for (double const w : out.weights[t]) sum += w;
    uncovered += out.weights[t].empty() ? 1 : 0;
    REQUIRE((out.weights[t].empty() || std::abs(sum - 2.5) < 1e-5));
  }
  REQUIRE((uncovered > 0 && uncovered < out.weights.size()));
  // without the routed experts what is left is the shared one
  auto const down = f.parameters.experts.down;
  to_device(Row(down.size(), 0.0), down);
  f.forward();
  auto const shared = f.result().y;
  for (std::size_t t = 0; t < shared.size(); ++t) REQUIRE((out.y[t] == shared[t]) == out.weights[t].empty());
}

TEST_CASE("Nucleus-Image: modulation of the experts' input moves no choice, that of the router's input does") {
  auto f = fixture(2);
  f.forward();
  auto const choice = f.result().choice;
  auto x = in_double(to_host(f.x));
  for (double& v : x) v *= 10;
  to_device(x, f.x);
  f.forward();
  REQUIRE(f.result().choice == choice);
  auto features = in_double(to_host(f.router_input));
  for (std::size_t t = 0; t < images * pixels; ++t)
    for (std::size_t h = 0; h < hidden; ++h) features[t * (embedding + hidden) + embedding + h] *= 10;
  to_device(features, f.router_input);
  f.forward();
  REQUIRE(f.result().choice != choice);
}

Rows normal_logits(std::size_t tokens, std::size_t experts, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  Rows rows(tokens, Row(experts));
  for (auto& row : rows)
    for (double& z : row) z = normal(engine);
  return rows;
}

TEST_CASE("what is added to all logits of an image moves the choice under a softmax, not under sigmoids") {
  auto const logits = normal_logits(32, 6, 5);
  auto shifted = logits;
  auto const of_image = normal_logits(2, 6, 6); // what a timestep adds, constant over an image
  for (std::size_t t = 0; t < 32; ++t)
    for (std::size_t e = 0; e < 6; ++e) shifted[t][e] += 2 * of_image[t / 16][e];
  auto const chosen = [&]<class Score>(Score, Rows const& z) {
    RoutingFixture<> f(z);
    f.select<Score>(ExpertChoice{.factor = 2, .tokens_per_sequence = 16});
    return f.chosen();
  };
  REQUIRE(chosen(SigmoidScore{}, shifted) == chosen(SigmoidScore{}, logits));
  REQUIRE(chosen(SoftmaxScore{}, shifted) != chosen(SoftmaxScore{}, logits));
}

TEST_CASE("fewer places leave more tokens uncovered, and their work falls with them") {
  // shares measured for the description that this follows: 64 experts, 256 tokens, independent logits
  StepSchedule<float, 3> const stages{8, {{{1, 4}, {2, nucleus_image_capacity_factor(10)}, {3, 1}}}};
  REQUIRE(stages.non_increasing());
  double const uncovered[] = {0, 0, 0.078, 0.289};
  for (std::uint64_t stage = 0; stage < 4; ++stage) {
    offset_t const places = offset_t(stages.at(stage)) * 256 / 64;
    double share = 0;
    for (unsigned seed = 1; seed <= 8; ++seed) {
      RoutingFixture<float> f(normal_logits(256, 64, seed));
      f.select<SoftmaxScore>(ExpertChoice{.factor = double(stages.at(stage)), .tokens_per_sequence = 256});
      REQUIRE(f.loads() == std::vector<offset_t>(64, places)); // rows, and so the work, go with the factor
      for (auto const& chosen : f.chosen()) share += chosen.empty() ? 1.0 / (8 * 256) : 0;
    }
    // eight images: the deviation of a share is below 0.01, and theirs was measured likewise
    CHECK(std::abs(share - uncovered[stage]) < 0.03);
  }
}

} // namespace nucleus_image_test
