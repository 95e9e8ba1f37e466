// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "adjusted.hpp"

#include <kokomo/adjust/key_batch_norm.hpp>

namespace key_batch_norm_test {

using namespace kokomo;
using namespace kokomo::test;

/// A column's values of the tokens that take part.
Row column(Rows const& z, std::size_t c, std::vector<index_t> const& mask) {
  Row values;
  for (std::size_t t = 0; t < z.size(); ++t)
    if (mask.empty() || mask[t] != 0) values.push_back(z[t][c]);
  return values;
}

struct Moments {
  double mean = 0, variance = 0;
  explicit Moments(Row const& values, double divide_by) {
    for (double const v : values) mean += v / double(values.size());
    for (double const v : values) variance += (v - mean) * (v - mean) / divide_by;
  }
};

/// The formula, with given moments of each column; `rows` of 2 x 2 keys or of more.
Rows normalized(Rows z, Row const& mean, Row const& variance, std::size_t rows, bool log_softmax) {
  for (auto& row : z) {
    for (std::size_t c = 0; c < row.size(); ++c) row[c] = (row[c] - mean[c]) / std::sqrt(variance[c] + double(1e-5f));
    for (auto const& [begin, end] : {std::pair(std::size_t(0), rows), std::pair(rows, row.size())}) {
      double sum = 0;
      for (std::size_t c = begin; c < end; ++c) sum += std::exp(row[c]);
      for (std::size_t c = begin; c < end && log_softmax; ++c) row[c] -= std::log(sum);
    }
  }
  return z;
}

TEST_CASE("batch norm of keys: moments of the batch in training, running ones in inference") {
  std::vector<index_t> const mask{1, 1, 0, 1, 1, 1, 1};
  for (bool const log_softmax : {true, false}) {
    auto const z = some_logits(7, 4); // four experts of 2 + 2 keys
    Adjusted<KeyBatchNorm> adjusted({.log_softmax = log_softmax, .momentum = 0.25f}, z);
    adjusted.fixture.set_token_mask(mask);
    Kokkos::deep_copy(adjusted.state.variance, 1.0);
    adjusted.mode = Mode::training;
    auto const out = adjusted(z);
    Row mean, variance, running_mean, running_variance;
    for (std::size_t c = 0; c < 4; ++c) {
      auto const values = column(z, c, mask);
      Moments const biased(values, 6), unbiased(values, 5);
      mean.push_back(biased.mean), variance.push_back(biased.variance);
      running_mean.push_back(0.25 * biased.mean), running_variance.push_back(0.75 + 0.25 * unbiased.variance);
    }
    CHECK(relative_error(flat(out), flat(normalized(z, mean, variance, 2, log_softmax))) < 1e-13);
    CHECK(relative_error(in_double(to_host(adjusted.state.mean)), running_mean) < 1e-14);
    CHECK(relative_error(in_double(to_host(adjusted.state.variance)), running_variance) < 1e-14);
    adjusted.mode = Mode::inference;
    CHECK(relative_error(flat(adjusted(z)), flat(normalized(z, running_mean, running_variance, 2, log_softmax))) <
          1e-13);
    CHECK(relative_error(in_double(to_host(adjusted.state.mean)), running_mean) < 1e-14); // as it was
  }
}

TEST_CASE("batch norm of keys: gradients") {
  for (auto const mode : {Mode::training, Mode::inference})
    for (bool const log_softmax : {true, false}) {
      Adjusted<KeyBatchNorm> adjusted({.log_softmax = log_softmax, .momentum = 0}, some_logits(7, 4));
      to_device(Row{1, 0.5, 2, 1}, adjusted.state.variance);
      adjusted.mode = mode;
      check_adjust_gradient(adjusted, some_logits(7, 4));
    }
}

TEST_CASE("batch norm of keys: one token, no token, settings that make no sense") {
  Adjusted<KeyBatchNorm> one({}, some_logits(1, 4));
  one.mode = Mode::training;
  for (double const v : flat(one(some_logits(1, 4)))) REQUIRE(v == Approx(-std::log(2.0))); // all of them are the mean
  Adjusted<KeyBatchNorm> masked({}, some_logits(3, 4));
  masked.fixture.set_token_mask({0, 0, 0});
  masked.mode = Mode::training;
  masked(some_logits(3, 4));
  REQUIRE(norm(in_double(to_host(masked.state.mean))) == 0); // nobody moves it
  Sizes sizes;
  sizes.experts = 6, sizes.columns = 5;
  REQUIRE_NOTHROW(KeyBatchNorm{.rows = 2}.check(sizes));
  REQUIRE_THROWS_AS((KeyBatchNorm{.rows = 4}.check(sizes)), Error);
  REQUIRE_THROWS_AS((KeyBatchNorm{.rows = 2, .epsilon = 0}.check(sizes)), Error);
  REQUIRE_THROWS_AS((KeyBatchNorm{.rows = 2, .momentum = 2}.check(sizes)), Error);
}

} // namespace key_batch_norm_test
