// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/experts/autonomous.hpp>
#include <kokomo/router/activation_norm_scorer.hpp>

#include <algorithm>

namespace autonomous_test {

using namespace kokomo;
using namespace kokomo::test;
using reference::Row;

using Subject = Layer<Router<ActivationNormScorer, TopK<>>, SoftmaxGate, NoBalancer, AutonomousExperts, double, Exec>;

Subject::Policies settings(int k) {
  return {.router = {.scorer = {.width = 3}, .selector = {.k = k}}, .experts = {.intermediate = 5, .cached = 3}};
}

TEST_CASE("autonomous experts equal the formula, activations computed anew") {
  std::size_t const tokens = 7, hidden = 4, experts = 6, width = 3, inner = 5;
  int const k = 2;
  Fixture<Subject> f({.tokens = 7, .hidden = 4, .experts = 6}, settings(k), 3);
  f.forward();
  auto const out = f.result();
  Row const x = to_host(f.x), w = to_host(f.parameters.router.down), gate = to_host(f.parameters.experts.gate),
            up = to_host(f.parameters.experts.up), down = to_host(f.parameters.experts.down);
  Row y(tokens * hidden), logits;
  for (std::size_t t = 0; t < tokens; ++t) {
    Row a(experts * width), norms;
    for (std::size_t i = 0; i < a.size(); ++i)
      for (std::size_t h = 0; h < hidden; ++h) a[i] += w[i * hidden + h] * x[t * hidden + h];
    for (std::size_t e = 0; e < experts; ++e)
      norms.push_back(std::sqrt(a[e * 3] * a[e * 3] + a[e * 3 + 1] * a[e * 3 + 1] + a[e * 3 + 2] * a[e * 3 + 2]));
    logits.insert(logits.end(), norms.begin(), norms.end());
    Row const p = reference::softmax(norms);
    std::vector<std::size_t> order{0, 1, 2, 3, 4, 5};
    std::sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) { return norms[i] > norms[j]; });
    for (int j = 0; j < k; ++j) {
      std::size_t const e = order[std::size_t(j)];
      REQUIRE(out.choice[t][std::size_t(j)] == int(e));
      for (std::size_t i = 0; i < inner; ++i) {
        double g = 0, u = 0;
        for (std::size_t c = 0; c < width; ++c) g += gate[(e * inner + i) * width + c] * a[e * width + c];
        for (std::size_t h = 0; h < hidden; ++h) u += up[(e * inner + i) * hidden + h] * x[t * hidden + h];
        double const a_i = g / (1 + std::exp(-g)) * u * p[e];
        for (std::size_t h = 0; h < hidden; ++h) y[t * hidden + h] += a_i * down[(e * hidden + h) * inner + i];
      }
    }
  }
  CHECK(relative_error(flat(out.logits), logits) < 1e-14);
  CHECK(relative_error(flat(out.y), y) < 1e-13);
}

TEST_CASE("autonomous experts: gradients through norms, weights and the shared activations") {
  Fixture<Subject> f({.tokens = 5, .hidden = 4, .experts = 4}, settings(2), 5);
  check_gradients(f);
}

TEST_CASE("a larger first matrix ranks its expert higher, a token of zeros is finite") {
  Fixture<Subject> f({.tokens = 6, .hidden = 4, .experts = 5}, settings(1), 2);
  auto w = to_host(f.parameters.router.down);
  for (std::size_t i = 2 * 12; i < 3 * 12; ++i) w[i] *= 50; // expert 2
  to_device(w, f.parameters.router.down);
  auto x = to_host(f.x);
  std::fill(x.begin(), x.begin() + 4, 0.0);
  to_device(x, f.x);
  f.forward();
  for (std::size_t t = 1; t < 6; ++t) REQUIRE(f.result().choice[t][0] == 2);
  f.backward();
  for (double const d : to_host(f.dx)) REQUIRE(std::isfinite(d));
}

TEST_CASE("autonomous experts: sizes that do not fit") {
  auto policies = settings(1);
  policies.experts.cached = 4;
  REQUIRE_THROWS_AS(Subject({.tokens = 1, .hidden = 2, .experts = 2}, policies), Error);
  policies = settings(1);
  policies.experts.intermediate = 0;
  REQUIRE_THROWS_AS(Subject({.tokens = 1, .hidden = 2, .experts = 2}, policies), Error);
}

} // namespace autonomous_test
