// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/token_coverage_loss.hpp>

namespace token_coverage_loss_test {

using namespace kokomo;
using namespace kokomo::test;

/// The formula, one sequence after the other.
double expected(Rows const& logits, std::vector<index_t> const& mask, std::size_t length) {
  double total = 0;
  std::size_t sequences = 0;
  for (std::size_t begin = 0; begin < logits.size(); begin += length, ++sequences) {
    std::size_t const end = std::min(logits.size(), begin + length), experts = logits[0].size();
    Row mean(end - begin, 0.0);
    double n = 0, squares = 0;
    for (std::size_t t = begin; t < end; ++t) n += mask[t];
    for (std::size_t e = 0; e < experts; ++e) {
      double sum = 0;
      for (std::size_t t = begin; t < end; ++t) sum += mask[t] ? std::exp(logits[t][e]) : 0;
      for (std::size_t t = begin; t < end; ++t)
        mean[t - begin] += mask[t] ? std::exp(logits[t][e]) / sum / double(experts) : 0;
    }
    for (double const m : mean) squares += m * m;
    total += n * squares;
  }
  return total / double(sequences);
}

TEST_CASE("token coverage: the formula and its gradient, with padding and a short last sequence") {
  TokenCoverageLoss const loss{.coefficient = 0.5f, .tokens_per_sequence = 4};
  Batch batch{.logits = random_logits(11, 3), .mask = {1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1}};
  REQUIRE(loss_of(loss, batch) == Approx(0.5 * expected(batch.logits, batch.mask, 4)).epsilon(1e-13));
  check_loss_gradient(loss, batch);
}

TEST_CASE("token coverage: one where all tokens get the same, as many as there are tokens where one gets all") {
  TokenCoverageLoss const loss{.coefficient = 1};
  Rows equal(8, Row{3, -1, 7}); // whatever the experts' levels are
  REQUIRE(loss_of(loss, {.logits = equal}) == Approx(1).epsilon(1e-14));
  Rows balanced = balanced_logits(8, 4, 1, 50); // each expert has its own two tokens
  REQUIRE(loss_of(loss, {.logits = balanced}) == Approx(1).epsilon(1e-12));
  equal[2] = {60, 60, 60};
  REQUIRE(loss_of(loss, {.logits = equal}) == Approx(8).epsilon(1e-12));
}

TEST_CASE("token coverage: padding alone, a sequence of it, numbers that are none") {
  TokenCoverageLoss const loss{.coefficient = 1, .tokens_per_sequence = 2};
  REQUIRE(loss_of(loss, {.logits = random_logits(4, 3), .mask = {0, 0, 0, 0}}) == 0);
  REQUIRE(loss_of(loss, {.logits = Rows(4, Row(3, 0.0)), .mask = {0, 0, 1, 1}}) == Approx(0.5));
  double const nan = std::numeric_limits<double>::quiet_NaN();
  REQUIRE(std::isfinite(loss_of(loss, {.logits = {{nan, 0, 1}, {nan, nan, 2}, {0, 0, 0}, {1, 1, nan}}})));
  REQUIRE_THROWS_AS((TokenCoverageLoss{.tokens_per_sequence = -1}.check(Sizes{})), Error);
}

} // namespace token_coverage_loss_test
