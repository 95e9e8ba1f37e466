// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/scorer_fixture.hpp>

#include <kokomo/error.hpp>
#include <kokomo/models/product_keys.hpp>

namespace batch_norm_key_scorer_test {

using namespace kokomo;
using namespace kokomo::test;

using Subject = ScorerFixture<BatchNormKeyScorer>;

std::size_t const tokens = 6, width = 3, heads = 2, key_size = 2, keys = 3, columns = 2 * heads * key_size;

BatchNormKeyScorer policy(float momentum = 0.25f) {
  return {.keys = {.heads = int(heads), .key_size = offset_t(key_size)}, .momentum = momentum};
}

/// The logits from given moments of each query number.
Rows expected(Subject const& f, Row const& mean, Row const& variance) {
  auto const x = in_double(to_host(f.x)), w = in_double(to_host(f.parameters.queries)),
             key = in_double(to_host(f.parameters.keys)), weight = in_double(to_host(f.parameters.norm_weight)),
             bias = in_double(to_host(f.parameters.norm_bias));
  Rows logits(tokens, Row(heads * 2 * keys));
  for (std::size_t t = 0; t < tokens; ++t) {
    Row q(columns);
    for (std::size_t c = 0; c < columns; ++c) {
      for (std::size_t h = 0; h < width; ++h) q[c] += w[c * width + h] * x[t * width + h];
      q[c] = (q[c] - mean[c]) / std::sqrt(variance[c] + double(1e-5f)) * weight[c] + bias[c];
    }
    for (std::size_t head = 0; head < heads; ++head)
      for (std::size_t half = 0; half < 2; ++half)
        for (std::size_t i = 0; i < keys; ++i)
          for (std::size_t d = 0; d < key_size; ++d)
            logits[t][(head * 2 + half) * keys + i] +=
                q[(half * heads + head) * key_size + d] * key[((head * keys + i) * 2 + half) * key_size + d];
  }
  return logits;
}

TEST_CASE("batch norm of queries: moments of the batch in training, running ones in inference") {
  Subject f(policy(), tokens, width, 9);
  f.token_mask = OwnedVector<index_t, Exec>("mask", tokens);
  to_device(std::vector<index_t>{1, 1, 1, 0, 1, 1}, f.token_mask);
  Kokkos::deep_copy(f.state.variance, 1.0);
  f.inputs.mode = Mode::training;
  auto const out = f.forward();
  auto const x = in_double(to_host(f.x)), w = in_double(to_host(f.parameters.queries));
  Row mean(columns), variance(columns), running_mean, running_variance;
  for (std::size_t c = 0; c < columns; ++c) {
    Row q;
    for (std::size_t t : {0, 1, 2, 4, 5}) {
      q.push_back(0);
      for (std::size_t h = 0; h < width; ++h) q.back() += w[c * width + h] * x[t * width + h];
    }
    for (double const v : q) mean[c] += v / 5;
    for (double const v : q) variance[c] += (v - mean[c]) * (v - mean[c]) / 5;
    running_mean.push_back(0.25 * mean[c]), running_variance.push_back(0.75 + 0.25 * variance[c] * 5 / 4);
  }
  CHECK(relative_error(flat(out), flat(expected(f, mean, variance))) < 1e-13);
  CHECK(relative_error(in_double(to_host(f.state.mean)), running_mean) < 1e-13);
  CHECK(relative_error(in_double(to_host(f.state.variance)), running_variance) < 1e-13);
  f.inputs.mode = Mode::inference;
  CHECK(relative_error(flat(f.forward()), flat(expected(f, running_mean, running_variance))) < 1e-13);
  CHECK(relative_error(in_double(to_host(f.state.mean)), running_mean) < 1e-13); // as it was
}

TEST_CASE("batch norm of queries: gradients through the batch's moments, and through constant ones") {
  for (auto const mode : {Mode::training, Mode::inference}) {
    Subject f(policy(0), tokens, width, 9, 3);
    to_device(Row(columns, 0.7), f.state.variance);
    f.inputs.mode = mode;
    check_scorer_gradients(f);
  }
}

TEST_CASE("batch norm of queries: a layer with padding, whose state moves in training alone") {
  using Layer = models::PeerNormalized<double, Exec>;
  static_assert(!Layer::causal && models::Peer<>::causal);
  Layer::Policies policies;
  policies.router.scorer = policy(0);
  policies.router.selector = {.k = 2, .heads = int(heads)};
  policies.gate.heads = int(heads);
  Fixture<Layer> f({.tokens = 6, .hidden = 3, .experts = 9}, policies, 5);
  f.set_mask({1, 0, 1, 1, 1, 1});
  f.mode = Mode::training;
  check_gradients(f);
  std::vector<std::string> names;
  f.state.for_each([&](std::string const& name, auto const&) { names.push_back(name); });
  REQUIRE(names == std::vector<std::string>{"scorer.mean", "scorer.variance"});

  auto const y = f.result().y;
  auto x = to_host(f.x);
  for (std::size_t h = 0; h < 3; ++h) x[3 + h] += 1; // padding moves nobody
  to_device(x, f.x);
  f.forward();
  REQUIRE(f.result().y == y);
  x[0] += 1; // a token that takes part moves all of them
  to_device(x, f.x);
  f.forward();
  REQUIRE(f.result().y[5] != y[5]);
  REQUIRE(norm(in_double(to_host(f.state.scorer.mean))) == 0); // momentum 0
}

TEST_CASE("batch norm of queries: settings that make no sense, no token") {
  REQUIRE_THROWS_AS(Subject({.keys = {.key_size = 0}}, 1, 1, 9), Error);
  REQUIRE_THROWS_AS(Subject({.keys = {.key_size = 1}, .epsilon = 0}, 1, 1, 9), Error);
  REQUIRE_THROWS_AS(Subject({.keys = {.key_size = 1}, .momentum = 2}, 1, 1, 9), Error);
  Subject nobody(policy(), 0, 3, 9);
  nobody.inputs.mode = Mode::training;
  nobody.forward();
  REQUIRE(norm(in_double(to_host(nobody.state.mean))) == 0);
}

} // namespace batch_norm_key_scorer_test
