// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/router/group_limited_top_k.hpp>

#include <set>

namespace group_limited_top_k_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T, class Rank = RankByScore>
using Subject =
    Layer<Router<LinearScorer, GroupLimitedTopK<Rank>>, NormalizedSigmoidGate, SelectionBias, SwiGluExperts, T, Exec>;

template <class Layer = Subject<double>> typename Layer::Policies settings(GroupLimitedTopK<> const& s) {
  typename Layer::Policies policies;
  policies.router.selector = {s.k, s.groups, s.allowed_groups, s.group_score, s.outside};
  if (s.outside == OutsideRank::zero) policies.balancer.rate = 0; // biases that move are refused beside it
  policies.gate.scale = 2.5f;
  policies.experts.intermediate = 3;
  return policies;
}

template <class Layer> void check(Shape const& shape, GroupLimitedTopK<> selector) {
  for (auto const score : {GroupScore::max, GroupScore::top2_sum})
    for (auto const outside : {OutsideRank::minus_infinity, OutsideRank::zero}) {
      selector.group_score = score;
      selector.outside = outside;
      check_shapes<Layer>({shape}, [&](Shape const&) { return settings<Layer>(selector); });
    }
}

TEST_CASE("group-limited top-k equals the reference in all its variants") {
  check<Subject<double>>({.tokens = 60, .hidden = 5, .experts = 12}, {.k = 4, .groups = 4, .allowed_groups = 2});
  check<Subject<double>>({.tokens = 60, .hidden = 5, .experts = 12}, {.k = 5, .groups = 2, .allowed_groups = 1});
  check<Subject<float>>({.tokens = 60, .hidden = 5, .experts = 12}, {.k = 3, .groups = 6, .allowed_groups = 4});
}

TEST_CASE("group-limited top-k with one group, with groups of one expert, and with one expert") {
  check<Subject<double>>({.tokens = 20, .hidden = 1, .experts = 7}, {.k = 7, .groups = 1, .allowed_groups = 1});
  check<Subject<double>>({.tokens = 20, .hidden = 4, .experts = 7}, {.k = 3, .groups = 7, .allowed_groups = 4});
  check<Subject<double>>({.tokens = 1, .hidden = 4, .experts = 1}, {.k = 1, .groups = 1, .allowed_groups = 1});
}

TEST_CASE("group-limited top-k by logits ranks the biased logits") {
  check<Subject<double, RankByLogits>>({.tokens = 60, .hidden = 5, .experts = 12},
                                       {.k = 4, .groups = 4, .allowed_groups = 2});
}

TEST_CASE("strongly negative biases: minus infinity keeps the group limit, zero turns it around") {
  Shape const shape{.tokens = 30, .hidden = 5, .experts = 8};
  for (auto const outside : {OutsideRank::minus_infinity, OutsideRank::zero}) {
    Fixture<Subject<double>> fixture(
        shape,
        settings({.k = 4, .groups = 4, .allowed_groups = 2, .group_score = GroupScore::max, .outside = outside}));
    to_device(std::vector<double>(8, -3.0), fixture.state.balancer.bias);
    check_forward(fixture);
    auto const out = fixture.result();
    for (std::size_t t = 0; t < out.choice.size(); ++t) {
      int const best = reference::largest(out.logits[t], 1)[0];
      std::set<int> groups, experts(out.choice[t].begin(), out.choice[t].end());
      for (int const e : experts) groups.insert(e / 2);
      REQUIRE(groups.size() == 2);
      // sigmoid scores - 3 are all below 0, which is what the experts outside then rank at
      REQUIRE(experts.count(best) == (outside == OutsideRank::zero ? 0 : 1));
    }
  }
}

TEST_CASE("weights of a chosen set do not see the bias and sum to the scale") {
  Fixture<Subject<double>> fixture({.tokens = 30, .hidden = 5, .experts = 8},
                                   settings({.k = 4, .groups = 4, .allowed_groups = 2}));
  fixture.forward();
  for (auto const& weights : fixture.result().weights) {
    double sum = 0;
    for (double const w : weights) sum += w;
    REQUIRE(sum == Approx(2.5).epsilon(1e-14)); // three additions of numbers near 1
  }
}

TEST_CASE("ties among groups and experts go to the smaller index") {
  Fixture<Subject<double>> fixture({.tokens = 1, .hidden = 1, .experts = 8},
                                   settings({.k = 3, .groups = 4, .allowed_groups = 2}));
  to_device(std::vector<double>(8, 0.0), fixture.state.balancer.bias);
  to_device(std::vector<double>{0, 0, 1, 0, 1, 0, 0, 1}, fixture.parameters.router.weight);
  to_device(std::vector<double>{1}, fixture.x);
  fixture.forward();
  // groups {2, 3}, {4, 5} and {6, 7} score alike: the first two of them stay
  REQUIRE(fixture.result().choice[0] == std::vector<int>{2, 4, 3});
}

TEST_CASE("group-limited top-k: masked tokens and gradients") {
  Fixture<Subject<double>> fixture({.tokens = 7, .hidden = 4, .experts = 6},
                                   settings({.k = 3, .groups = 3, .allowed_groups = 2}));
  fixture.set_mask({1, 1, 0, 1, 1, 0, 1});
  check_forward(fixture);
  check_gradients(fixture);
}

} // namespace group_limited_top_k_test
