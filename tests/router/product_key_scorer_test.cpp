// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/router/product_key_scorer.hpp>

namespace product_key_scorer_test {

using namespace kokomo;
using namespace kokomo::test;
using reference::Row;

template <class T>
using Subject = Layer<Router<ProductKeyScorer, TopK<dynamic, RankByLogits>>, SelectedSoftmaxGate, NoBalancer,
                      FeedForwardExperts<Plain<Silu>>, T, Exec>;

template <class T> typename Subject<T>::Policies settings(ProductKeyScorer const& scorer, int k) {
  return {.router = {.scorer = scorer, .selector = {.k = k}}, .experts = {.intermediate = 1}};
}

/// y and logits from x and the parameters: every pair is scored, the k best are sorted out, each is one neuron.
template <class F> std::pair<Row, Row> expected(F const& fixture, int k, bool tokens_interleaved, bool bias) {
  auto const tokens = std::size_t(fixture.tokens), hidden = std::size_t(fixture.layer.shape().hidden);
  auto const experts = std::size_t(fixture.layer.shape().experts);
  auto const n = std::size_t(std::lround(std::sqrt(double(experts))));
  auto const x = in_double(to_host(fixture.x)), weight = in_double(to_host(fixture.parameters.router.weight));
  auto const offset = in_double(to_host(fixture.parameters.router.bias));
  auto const up = in_double(to_host(fixture.parameters.experts.up)),
             down = in_double(to_host(fixture.parameters.experts.down));
  auto const dot = [&](Row const& rows, std::size_t row, std::size_t t) {
    double sum = 0;
    for (std::size_t i = 0; i < hidden; ++i) sum += rows[row * hidden + i] * x[t * hidden + i];
    return sum;
  };
  Row keys;
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t c = 0; c < 2 * n; ++c) keys.push_back(dot(weight, c, t) + (bias ? offset[c] : 0));
  Row logits, y(tokens * hidden);
  for (std::size_t t = 0; t < tokens; ++t) {
    std::vector<std::pair<double, std::size_t>> best;
    for (std::size_t e = 0; e < experts; ++e) {
      double const a = tokens_interleaved ? keys[t * n + e / n] : keys[2 * n * t + e / n];
      double const b = tokens_interleaved ? keys[(tokens + t) * n + e % n] : keys[2 * n * t + n + e % n];
      logits.push_back(a + b);
      best.emplace_back(a + b, e);
    }
    std::sort(best.rbegin(), best.rend());
    best.resize(std::size_t(k));
    double total = 0;
    for (auto const& [z, e] : best) total += std::exp(z);
    for (auto const& [z, e] : best) {
      double const u = dot(up, e, t), w = std::exp(z) / total * u / (1 + std::exp(-u));
      for (std::size_t i = 0; i < hidden; ++i) y[t * hidden + i] += w * down[e * hidden + i];
    }
  }
  return {y, logits};
}

template <class T> void check_formula(Shape const& shape, int k, ProductKeyScorer const& scorer) {
  Fixture<Subject<T>> fixture(shape, settings<T>(scorer, k), 3);
  fixture.forward();
  auto const out = fixture.result();
  auto const [y, logits] = expected(fixture, k, scorer.tokens_interleaved, scorer.linear.bias);
  CHECK(relative_error(flat(out.logits), logits) <= tolerance<T>());
  CHECK(relative_error(flat(out.y), y) <= tolerance<T>());
}

TEST_CASE("product key scorer equals the formula over all pairs") {
  for (bool const interleaved : {false, true}) {
    for (bool const bias : {false, true}) {
      ProductKeyScorer const scorer{.linear = {.bias = bias}, .tokens_interleaved = interleaved};
      check_formula<double>({.tokens = 11, .hidden = 7, .experts = 25}, 4, scorer);
      check_formula<float>({.tokens = 11, .hidden = 7, .experts = 9}, 9, scorer);
      check_formula<double>({.tokens = 1, .hidden = 3, .experts = 4}, 2, scorer);
      check_formula<double>({.tokens = 3, .hidden = 2, .experts = 1}, 1, scorer);
    }
  }
}

TEST_CASE("product key scorer: gradients equal central differences") {
  for (bool const interleaved : {false, true}) {
    ProductKeyScorer const scorer{.linear = {.bias = true, .softcap = 2}, .tokens_interleaved = interleaved};
    Fixture<Subject<double>> fixture({.tokens = 5, .hidden = 3, .experts = 9}, settings<double>(scorer, 3), 2);
    check_gradients(fixture);
  }
}

TEST_CASE("product key scorer: tokens stay apart unless interleaved") {
  Shape const shape{.tokens = 4, .hidden = 5, .experts = 9};
  for (bool const interleaved : {false, true}) {
    Fixture<Subject<double>> all(shape, settings<double>({.tokens_interleaved = interleaved}, 2));
    Fixture<Subject<double>> alone(shape, settings<double>({.tokens_interleaved = interleaved}, 2), 1, 1);
    auto const take = [](auto const& from, auto const& to) { to_device(to_host(from), to); };
    take(all.parameters.router.weight, alone.parameters.router.weight);
    auto x = to_host(all.x);
    x.resize(5);
    to_device(x, alone.x);
    all.forward(), alone.forward();
    double const apart = relative_error(alone.result().logits[0], all.result().logits[0]);
    if (interleaved)
      CHECK(apart > 0.1); // half of the first token's logits come from the third
    else
      CHECK(apart <= 1e-14); // the same products
  }
}

TEST_CASE("product key scorer: the number of experts must be a square") {
  auto const id_for = [](offset_t experts) {
    try {
      Subject<float>({.tokens = 1, .hidden = 2, .experts = experts}, settings<float>({}, 1));
    } catch (Error const& error) {
      return error.id();
    }
    return 0;
  };
  CHECK(id_for(15) == 101);
  CHECK(id_for(17) == 101);
  CHECK(id_for(16) == 0);
}

} // namespace product_key_scorer_test
