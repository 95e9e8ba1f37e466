// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/scorer_fixture.hpp>

#include <kokomo/error.hpp>
#include <kokomo/router/cosine_scorer.hpp>
#include <kokomo/router/linear_scorer.hpp>
#include <kokomo/router/no_scorer.hpp>
#include <kokomo/router/noisy_scorer.hpp>

/// Scorers beside the linear one: noisy logits and cosines.

namespace noisy_scorer_test {

using namespace kokomo;
using namespace kokomo::test;

double dot(Row const& a, std::size_t i, Row const& b, std::size_t j, std::size_t width) {
  double sum = 0;
  for (std::size_t h = 0; h < width; ++h) sum += a[i * width + h] * b[j * width + h];
  return sum;
}

TEST_CASE("noisy scorer: clean logits and deviations by the formula, noise in training alone") {
  ScorerFixture<NoisyScorer> f({.seed = 5}, 7, 6, 4);
  Row const x = in_double(to_host(f.x)), w = in_double(to_host(f.parameters.weight)),
            noise = in_double(to_host(f.parameters.noise));
  Rows expected(7, Row(12));
  for (std::size_t t = 0; t < 7; ++t)
    for (std::size_t e = 0; e < 4; ++e) {
      expected[t][e] = expected[t][4 + e] = dot(x, t, w, e, 6);
      expected[t][8 + e] = std::log1p(std::exp(dot(x, t, noise, e, 6))) + double(1e-2f);
    }
  auto const clean = f.forward();
  REQUIRE(relative_error(flat(clean), flat(expected)) < 1e-14);
  f.inputs.mode = Mode::training;
  f.inputs.step = 3;
  auto const trained = f.forward();
  for (std::size_t t = 0; t < 7; ++t) {
    REQUIRE(std::equal(trained[t].begin() + 4, trained[t].end(), clean[t].begin() + 4));
    for (std::size_t e = 0; e < 4; ++e) REQUIRE(trained[t][e] != trained[t][4 + e]);
  }
  REQUIRE(f.forward() == trained); // keyed by seed, step, token and expert
  f.inputs.step = 4;
  REQUIRE(f.forward() != trained);
}

TEST_CASE("noisy scorer: the noise is standard normal times the deviation") {
  int const tokens = 4000;
  for (NoiseScale const scale : {NoiseScale::learned, NoiseScale::fixed}) {
    ScorerFixture<NoisyScorer> f({.scale = scale, .fixed_deviation = 2, .seed = 11}, tokens, 1, 5);
    f.inputs.mode = Mode::training;
    double sum = 0, squares = 0, fourth = 0;
    for (auto const& row : f.forward())
      for (std::size_t e = 0; e < 5; ++e) {
        double const n = (row[e] - row[5 + e]) / row[10 + e];
        if (scale == NoiseScale::fixed) REQUIRE(row[10 + e] == 0.4);
        sum += n, squares += n * n, fourth += n * n * n * n;
      }
    double const n = 5 * tokens;
    // four standard deviations of the mean of n, n^2 (variance 2) and n^4 (variance 96)
    CHECK(std::abs(sum / n) < 4 / std::sqrt(n));
    CHECK(std::abs(squares / n - 1) < 4 * std::sqrt(2 / n));
    CHECK(std::abs(fourth / n - 3) < 4 * std::sqrt(96 / n));
  }
}

TEST_CASE("noisy scorer: gradients through all three parts equal differences") {
  for (Mode const mode : {Mode::inference, Mode::training})
    for (NoiseScale const scale : {NoiseScale::learned, NoiseScale::fixed}) {
      ScorerFixture<NoisyScorer> f({.scale = scale, .seed = 2}, 5, 4, 3);
      f.inputs.mode = mode;
      check_scorer_gradients(f);
    }
}

TEST_CASE("noisy scorer in float32, no tokens, settings") {
  ScorerFixture<NoisyScorer, float> f({}, 3, 4, 2);
  REQUIRE(f.forward()[0].size() == 6);
  ScorerFixture<NoisyScorer> nobody({}, 0, 4, 2);
  nobody.forward();
  nobody.backward({});
  REQUIRE(norm(in_double(to_host(nobody.gradients.weight))) == 0);
  REQUIRE_THROWS_AS((ScorerFixture<NoisyScorer>({.floor = -1}, 1, 1, 1)), Error);
}

TEST_CASE("cosine scorer: cosines of inputs and embeddings, whatever their sizes") {
  ScorerFixture<CosineScorer> f({.scale = 3, .learned_scale = true}, 6, 5, 4);
  Row const x = in_double(to_host(f.x)), w = in_double(to_host(f.parameters.weight));
  double const s = 3 * in_double(to_host(f.parameters.scale))[0];
  double const epsilon = double(1e-6f);
  Rows expected(6, Row(4));
  for (std::size_t t = 0; t < 6; ++t)
    for (std::size_t e = 0; e < 4; ++e)
      expected[t][e] =
          s * dot(x, t, w, e, 5) / std::sqrt((dot(x, t, x, t, 5) + epsilon) * (dot(w, e, w, e, 5) + epsilon));
  auto const logits = f.forward();
  REQUIRE(relative_error(flat(logits), flat(expected)) < 1e-14);
  Row larger = x;
  for (double& v : larger) v *= 1000;
  to_device(larger, f.x);
  REQUIRE(relative_error(flat(f.forward()), flat(logits)) < 1e-5); // epsilon 1e-6 of |x|^2 of order one
  to_device(Row(x.size(), 0.0), f.x);
  REQUIRE(norm(flat(f.forward())) == 0);
}

TEST_CASE("cosine scorer: gradients equal differences") {
  for (bool const learned : {false, true}) {
    ScorerFixture<CosineScorer> f({.scale = 1.5f, .learned_scale = learned}, 5, 4, 3);
    check_scorer_gradients(f);
  }
  ScorerFixture<CosineScorer> f({}, 4, 3, 2); // a row of zeros has a gradient too
  auto x = to_host(f.x);
  std::fill(x.begin(), x.begin() + 3, 0.0);
  to_device(x, f.x);
  f.forward();
  f.backward(Row(8, 1.0));
  for (double const d : in_double(to_host(f.dx))) REQUIRE(std::isfinite(d));
  REQUIRE_THROWS_AS((ScorerFixture<CosineScorer>({.epsilon = 0}, 1, 1, 1)), Error);
}

TEST_CASE("no scorer: logits of zero, whatever memory held before, and no gradient") {
  ScorerFixture<NoScorer> f({}, 5, 3, 4);
  REQUIRE(f.forward() == Rows(5, Row(4, 0.0)));
  f.backward(Row(20, 1.0));
  REQUIRE(norm(in_double(to_host(f.dx))) == 0);
  REQUIRE(policy_tensors(f.parameters).empty());
}

TEST_CASE("an expert that joins with its key leaves the logits of the others as they are, bit for bit") {
  // routers by descriptions: a row of keys an expert, so that one more needs no training of the others
  auto const check = [](auto const& scorer, auto const& weight_of) {
    using Scorer = std::remove_cvref_t<decltype(scorer)>;
    ScorerFixture<Scorer> before(scorer, 9, 33, 5), after(scorer, 9, 33, 6);
    to_device(to_host(before.x), after.x);
    auto keys = to_host(weight_of(after.parameters));
    auto const old = to_host(weight_of(before.parameters));
    std::copy(old.begin(), old.end(), keys.begin());
    to_device(keys, weight_of(after.parameters));
    auto const few = before.forward();
    auto more = after.forward();
    for (auto& row : more) row.pop_back();
    REQUIRE(more == few);
  };
  check(LinearScorer{}, [](auto const& p) { return p.weight; });
  check(CosineScorer{}, [](auto const& p) { return p.weight; });
}

} // namespace noisy_scorer_test
