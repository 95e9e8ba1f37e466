// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>
#include <support/routing_fixture.hpp>

#include <kokomo/gate/sparse_mixer.hpp>

namespace sparse_mixer_test {

using namespace kokomo;
using namespace kokomo::test;

using Subject = Layer<Router<LinearScorer, SparseMixer>, SparseMixerGate, NoBalancer, SwiGluExperts, double, Exec>;

/// A wide epsilon, so that several experts are seen and the gradient does not vanish.
Subject::Policies settings(float epsilon) {
  return {.router = {.scorer = {.bias = true}, .selector = {.epsilon = epsilon, .seed = 5}},
          .gate = {.epsilon = epsilon, .seed = 6},
          .experts = {.intermediate = 3}};
}

TEST_CASE("SparseMixer in inference: gradients equal central differences") {
  for (float const epsilon : {0.2f, 0.45f}) {
    Fixture<Subject> fixture({.tokens = 8, .hidden = 3, .experts = 5}, settings(epsilon));
    fixture.set_mask({1, 1, 1, 0, 1, 1, 1, 1});
    check_forward(fixture);
    check_gradients(fixture);
  }
}

TEST_CASE("SparseMixer's weights: one for a lonely best expert, at most two together") {
  Fixture<Subject> fixture({.tokens = 40, .hidden = 3, .experts = 5}, settings(0));
  fixture.forward();
  for (auto const& w : fixture.result().weights) REQUIRE(w == reference::Row{1, 1});
  Fixture<Subject> wide({.tokens = 40, .hidden = 3, .experts = 5}, settings(10));
  wide.forward();
  for (auto const& w : wide.result().weights) {
    REQUIRE(w[0] > 0.2);  // the largest of five
    REQUIRE(w[1] > 0.25); // the largest of four
    REQUIRE(w[0] + w[1] < 2);
  }
}

/// In training: the weights' factors, and the gradient that reaches the router, against the published estimator
/// dz += g m (onehot - softmax), with g = <dy, expert(x)> the gradient of the weight and m its multiplier.
void check_training(Fixture<Subject>& fixture, reference::Rows const& factors) {
  double const epsilon = fixture.layer.policies().gate.epsilon;
  auto const out = fixture.result();
  auto const in = fixture.reference_inputs();
  auto const described = describe(fixture.layer);
  reference::Layer const reference(described, in);
  auto const dy = in_rows(to_host(fixture.dy), out.y.size());

  reference::Rows weights, d_logits;
  for (std::size_t t = 0; t < out.y.size(); ++t) {
    weights.emplace_back();
    d_logits.emplace_back(5, 0.0);
    int removed = -1;
    for (int j = 0; j < 2; ++j) {
      int const e = out.choice[t][j];
      auto const softmax = reference::sparse_mixer_softmax(out.logits[t], removed, epsilon);
      weights[t].push_back(softmax[e] * factors[t][j]);
      double const g = reference::dot(dy[t].data(), reference.expert(e, in.x[t]));
      for (int i = 0; i < 5; ++i) d_logits[t][i] += g * softmax[e] * ((i == e ? 1 : 0) - softmax[i]);
      removed = e;
    }
  }
  CHECK(relative_error(flat(out.weights), flat(weights)) <= tolerance<double>());

  reference::Row d_bias(5, 0.0), d_weight(15, 0.0);
  for (std::size_t t = 0; t < out.y.size(); ++t)
    for (int e = 0; e < 5; ++e) {
      d_bias[e] += d_logits[t][e];
      for (int h = 0; h < 3; ++h) d_weight[e * 3 + h] += d_logits[t][e] * in.x[t][h];
    }
  CHECK(relative_error(to_host(fixture.gradients.router.bias), d_bias) <= tolerance<double>());
  CHECK(relative_error(to_host(fixture.gradients.router.weight), d_weight) <= tolerance<double>());
}

TEST_CASE("SparseMixer in training follows the estimator, with factors drawn by the gate") {
  Fixture<Subject> fixture({.tokens = 60, .hidden = 3, .experts = 5}, settings(0.45f));
  fixture.mode = Mode::training;
  fixture.step = 3;
  fixture.forward();
  fixture.backward();
  auto const out = fixture.result();
  // A factor is 1 for an argmax, else 1 or 0.3333: take whichever is nearer, and see that both occur.
  reference::Rows factors;
  int whole = 0, third = 0;
  for (std::size_t t = 0; t < 60; ++t) {
    factors.emplace_back();
    int removed = -1;
    for (int j = 0; j < 2; ++j) {
      int const e = out.choice[t][j];
      auto const softmax = reference::sparse_mixer_softmax(out.logits[t], removed, 0.45f);
      bool const best = reference::largest(softmax, 1)[0] == e;
      bool const is_whole = best || out.weights[t][j] > 0.6 * softmax[e];
      if (!best) ++(is_whole ? whole : third);
      factors[t].push_back(is_whole ? 1.0 : 0.3333);
      removed = e;
    }
  }
  REQUIRE(whole > 0);
  REQUIRE(third > whole); // three quarters of the draws
  check_training(fixture, factors);
}

TEST_CASE(
    "SparseMixer's mean gradient is nearer to that of the expected output than a derivative that ignores the draw") {
  // The first pick of 40,000 equal tokens. An expert's output is a number, so that the token's expected output is the sum of
  // p_e * p_e c_e v_e, with c_e the mean factor: 1 of the best expert, 1/4 + 3/4 * 0.3333 of another.
  int const n = 40000;
  Row const z{1, 0.9, 0.8, 0.7}, v{0.2, 1, -1, 0.6};
  RoutingFixture<> f(Rows(std::size_t(n), z));
  f.routing.mode = Mode::training;
  SparseMixerGate const gate{.epsilon = 0.45f, .seed = 2};
  f.select<IdentityScore>(SparseMixer{.epsilon = 0.45f, .seed = 1});
  f.weigh(gate);
  auto const chosen = f.chosen();
  auto const weights = f.weights();
  auto const p = reference::softmax(z);

  // exact, by sums over the draws: d/dz_j of p_e^2 is 2 p_e^2 (1[e = j] - p_j)
  Row exact(4, 0.0), expected(4, 0.0), variance(4, 0.0), unaware(4, 0.0), d_weights;
  for (std::size_t e = 0; e < 4; ++e)
    for (std::size_t j = 0; j < 4; ++j) {
      double const slope = p[e] * ((e == j ? 1 : 0) - p[j]);
      exact[j] += 2 * p[e] * (e == 0 ? 1 : 0.25 + 0.75 * 0.3333) * v[e] * slope;
      expected[j] += p[e] * v[e] * slope; // the published estimator's mean
      variance[j] += p[e] * (v[e] * slope) * (v[e] * slope);
    }
  for (auto const& token : chosen) d_weights.push_back(v[std::size_t(token[0])]), d_weights.push_back(0);
  auto const d = f.gate_gradient(gate, d_weights);
  Row mean(4, 0.0);
  for (std::size_t t = 0; t < std::size_t(n); ++t) {
    auto const e = std::size_t(chosen[t][0]);
    for (std::size_t j = 0; j < 4; ++j) {
      mean[j] += d[t][j] / n;
      unaware[j] += weights[t][0] / p[e] * d[t][j] / n; // the derivative of the weight as it was multiplied
    }
  }
  for (std::size_t j = 0; j < 4; ++j) REQUIRE(std::abs(mean[j] - expected[j]) < 4 * std::sqrt(variance[j] / n));
  INFO(distance(mean, exact) << " against " << distance(unaware, exact));
  REQUIRE(distance(mean, exact) < 0.5 * distance(unaware, exact));
}

TEST_CASE("SparseMixer in training takes factors that were drawn elsewhere") {
  Fixture<Subject> fixture({.tokens = 9, .hidden = 3, .experts = 5}, settings(0.45f));
  OwnedMatrix<double, Exec> factors("factors", 9, 2);
  fixture.fill(factors);
  fixture.mode = Mode::training;
  auto inputs = fixture.inputs();
  inputs.gate.factors = factors;
  fixture.layer.forward(fixture.exec, fixture.parameters, fixture.state, inputs, fixture.y, fixture.workspace,
                        fixture.tape);
  fixture.backward();
  check_training(fixture, in_rows(to_host(factors), 9));

  inputs.mode = Mode::inference; // which has none
  fixture.layer.forward(fixture.exec, fixture.parameters, fixture.state, inputs, fixture.y, fixture.workspace,
                        fixture.tape);
  fixture.exec.fence();
  auto const weights = fixture.result().weights;
  fixture.forward();
  fixture.mode = Mode::inference;
  fixture.forward();
  REQUIRE(fixture.result().weights == weights);
}

} // namespace sparse_mixer_test
