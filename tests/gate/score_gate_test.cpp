// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/capacity/capacity.hpp>
#include <kokomo/gate/score_gate.hpp>

namespace score_gate_test {

using namespace kokomo;
using namespace kokomo::test;

/// A capacity, so that dropped experts exist; three places of about four.
template <class Score, class T>
using Subject = Layer<Router<LinearScorer, TopK<>>, ScoreGate<Score>, NoBalancer, SwiGluExperts, T, Exec, Capacity>;

template <class Score, class T>
typename Subject<Score, T>::Policies settings(ScoreGate<Score> const& gate, offset_t places = 3) {
  return {
      .router = {.selector = {.k = 3}}, .gate = gate, .experts = {.intermediate = 1}, .capacity = {.places = places}};
}

/// Every way to normalise, with both branches of the clamp, and scales.
template <class Score> std::vector<ScoreGate<Score>> variants() {
  return {{},
          {.scale = 2.5f, .expert_scales = true},
          {.normalize = Normalize::sum},
          {.normalize = Normalize::sum_plus_epsilon, .epsilon = 0.25f, .scale = 0.5f},
          {.normalize = Normalize::sum_clamp_min, .epsilon = 1e-12f, .expert_scales = true},
          {.normalize = Normalize::sum_clamp_min, .epsilon = 100},
          {.normalize = Normalize::p_norm, .p = 1},
          {.normalize = Normalize::p_norm, .p = 2, .scale = 1.5f},
          {.normalize = Normalize::p_norm, .p = 3.5f, .expert_scales = true}};
}

template <class Score> void check() {
  for (auto gate : variants<Score>())
    for (auto const drops : {Drops::keep_share, Drops::renormalize}) {
      INFO("normalize " << int(gate.normalize) << ", p " << gate.p << ", drops " << int(drops));
      gate.drops = drops;
      check_shapes<Subject<Score, double>>(
          {{.tokens = 1, .hidden = 2, .experts = 3}, {.tokens = 31, .hidden = 5, .experts = 6}},
          [&](Shape const&) { return settings<Score, double>(gate); });
      Fixture<Subject<Score, double>> fixture({.tokens = 6, .hidden = 2, .experts = 4}, settings<Score, double>(gate));
      fixture.set_mask({1, 1, 1, 0, 1, 1});
      check_gradients(fixture);
      REQUIRE(fixture.result().dropped > 0);
    }
}

TEST_CASE("softmax gate: forward and gradients with every normalisation") {
  check<SoftmaxScore>();
}
TEST_CASE("sigmoid gate: forward and gradients with every normalisation") {
  check<SigmoidScore>();
}
TEST_CASE("sqrt-softplus gate: forward and gradients with every normalisation") {
  check<SqrtSoftplusScore>();
}

TEST_CASE("score gates of float32 layers equal the reference") {
  for (auto const& gate : variants<SoftmaxScore>())
    check_shapes<Subject<SoftmaxScore, float>>({{.tokens = 31, .hidden = 5, .experts = 6}},
                                               [&](Shape const&) { return settings<SoftmaxScore, float>(gate); });
}

TEST_CASE("published aliases normalise as their names say") {
  REQUIRE(SoftmaxGate{}.normalize == Normalize::none);
  REQUIRE(SigmoidGate{}.normalize == Normalize::none);
  for (auto const& [normalize, epsilon] :
       {std::pair(NormalizedSigmoidGate{}.normalize, NormalizedSigmoidGate{}.epsilon),
        std::pair(NormalizedSoftmaxGate{}.normalize, NormalizedSoftmaxGate{}.epsilon),
        std::pair(NormalizedSqrtSoftplusGate{}.normalize, NormalizedSqrtSoftplusGate{}.epsilon)}) {
    REQUIRE(normalize == Normalize::sum_plus_epsilon);
    REQUIRE(epsilon == 1e-20f);
  }
}

TEST_CASE("what capacity drops: half the mass is lost, or the rest shares it") {
  // Four tokens with equal scores for experts 0, 1 and 2; expert 0 takes two of them.
  auto const weights = [](Drops drops) {
    Fixture<Subject<SigmoidScore, double>> fixture(
        {.tokens = 4, .hidden = 1, .experts = 3},
        settings<SigmoidScore, double>({.normalize = Normalize::sum, .drops = drops}, 2));
    to_device(std::vector<double>{0, 0, 0}, fixture.parameters.router.weight);
    fixture.forward();
    return fixture.result().weights;
  };
  double const third = 1.0 / 3;
  // dropped entries keep their weight in the Assignment, and are not executed
  REQUIRE(distance(flat(weights(Drops::keep_share)), reference::Row(12, third)) < 1e-15);
  auto expected = reference::Row(12, third);
  std::fill(expected.begin() + 6, expected.end(), 0.0);
  REQUIRE(distance(flat(weights(Drops::renormalize)), expected) < 1e-15);
}

TEST_CASE("round_weights rounds to the storage type") {
  Fixture<Subject<SoftmaxScore, float16>> fixture({.tokens = 5, .hidden = 4, .experts = 4},
                                                  settings<SoftmaxScore, float16>({.round_weights = true}));
  fixture.forward();
  for (double const w : flat(fixture.result().weights)) REQUIRE(w == double(float(float16(float(w)))));
  // half a unit in the last place of float16
  REQUIRE(relative_error(flat(fixture.result().weights), flat(fixture.reference_result().weights)) <= 5e-4);
}

} // namespace score_gate_test
