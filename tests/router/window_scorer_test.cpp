// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/scorer_fixture.hpp>

#include <kokomo/router/window_scorer.hpp>

namespace window_scorer_test {

using namespace kokomo;
using namespace kokomo::test;

TEST_CASE("windows: means of equal parts of a sequence, their logits averaged, short sequences and tails") {
  // sequences of 7 tokens: 3 windows of 2, one token left over; then one of 2 tokens: 2 windows
  ScorerFixture<WindowScorer<LinearScorer>> f({.tokens_per_sequence = 7, .windows = 3}, 16, 4, 3);
  auto const x = in_rows(in_double(to_host(f.x)), 16), weight = in_rows(in_double(to_host(f.parameters.weight)), 3);
  auto const z = f.forward();
  for (std::size_t t = 0; t < 16; ++t) {
    std::size_t const begin = t / 7 * 7, n = std::min(begin + 7, x.size()) - begin, count = std::min<std::size_t>(3, n);
    for (std::size_t e = 0; e < 3; ++e) {
      double sum = 0;
      for (std::size_t i = begin; i < begin + count * (n / count); ++i)
        for (std::size_t h = 0; h < 4; ++h) sum += x[i][h] * weight[e][h] / double(count * (n / count));
      REQUIRE(z[t][e] == Approx(sum).epsilon(1e-12)); // linear: the average of the means' logits
    }
  }
  check_scorer_gradients(f);
}

TEST_CASE("windows: Dr.LLM's router is no router of the mean, but for one window") {
  ScorerFixture<WindowScorer<>> f({.tokens_per_sequence = 10, .inner = {.hidden = 5, .biases = true}}, 20, 4, 3);
  f.forward();
  check_scorer_gradients(f);
  ScorerFixture<WindowScorer<>> one({.tokens_per_sequence = 10, .windows = 1, .inner = {.hidden = 5}}, 20, 4, 3);
  ScorerFixture<PooledScorer<HiddenLayerScorer<GeluTanh>>> mean({.tokens_per_sequence = 10, .inner = {.hidden = 5}}, 20,
                                                                4, 3);
  CHECK(relative_error(flat(one.forward()), flat(mean.forward())) < 1e-14); // the same seed, the same numbers
  REQUIRE_THROWS_AS((WindowScorer<>{.windows = 0}.check(f.sizes)), Error);
  REQUIRE_THROWS_AS((WindowScorer<>{.tokens_per_sequence = 4}.check(f.sizes)), Error); // inner has no size
}

TEST_CASE("windows: a sequence of fewer tokens than windows, and no token") {
  ScorerFixture<WindowScorer<LinearScorer>> f({.tokens_per_sequence = 3}, 3, 4, 2);
  check_scorer_gradients(f);
  ScorerFixture<WindowScorer<LinearScorer>> none({.tokens_per_sequence = 3}, 0, 4, 2);
  REQUIRE(none.logits.extent(0) == 0);
}

} // namespace window_scorer_test
