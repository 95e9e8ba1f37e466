// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "adjusted.hpp"

#include <kokomo/adjust/top_k_shares.hpp>
#include <kokomo/router/expert_choice.hpp>

#include <algorithm>
#include <numeric>

namespace top_k_shares_test {

using namespace kokomo;
using namespace kokomo::test;

Row softmax(Row z) {
  double sum = 0;
  for (double& v : z) v = std::exp(v), sum += v;
  for (double& v : z) v /= sum;
  return z;
}

/// The probabilities of the k best, zero elsewhere.
Rows kept(Rows const& z, std::size_t k, std::vector<index_t> const& mask = {}) {
  Rows m;
  for (std::size_t t = 0; t < z.size(); ++t) {
    auto const p = softmax(z[t]);
    std::vector<std::size_t> order(p.size());
    std::iota(order.begin(), order.end(), std::size_t(0));
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return p[a] > p[b]; });
    m.push_back(Row(p.size(), 0.0));
    for (std::size_t j = 0; j < k && (mask.empty() || mask[t] != 0); ++j) m[t][order[j]] = p[order[j]];
  }
  return m;
}

TEST_CASE("shares of the k best: over the experts of a token, over a position of all sequences") {
  auto const z = some_logits(8, 4); // sequences of 3, 3 and 2 tokens
  std::vector<index_t> const mask{1, 1, 1, 0, 1, 1, 1, 1};
  auto const m = kept(z, 2, mask);
  Adjusted<TopKShares> experts({.k = 2, .over = ShareOver::experts, .capacity = 1.5f}, z);
  experts.fixture.set_token_mask(mask);
  Adjusted<TopKShares> batch({.k = 2, .tokens_per_sequence = 3, .capacity = 0.7f}, z);
  batch.fixture.set_token_mask(mask);
  auto const by_token = experts(z), by_position = batch(z);
  double const epsilon = double(1e-8f);
  for (std::size_t t = 0; t < 8; ++t)
    for (std::size_t e = 0; e < 4; ++e) {
      REQUIRE(by_token[t][e] ==
              Approx(1.5 * m[t][e] / (std::accumulate(m[t].begin(), m[t].end(), 0.0) + epsilon)).epsilon(1e-12));
      double sum = epsilon;
      for (std::size_t u = t % 3; u < 8; u += 3) sum += m[u][e];
      REQUIRE(by_position[t][e] == Approx(2 * m[t][e] / sum).epsilon(1e-12)); // floor(0.7 * 3 sequences) = 2
    }
  REQUIRE(flat(Adjusted<TopKShares>({.k = 4}, {{0, 0, 0, 0}})({{0, 0, 0, 0}})) ==
          Row(4, 0.25 / (0.25 + epsilon))); // one sequence is a batch of one
}

TEST_CASE("shares of the k best: gradients, and none through their sum") {
  auto const z = some_logits(8, 4);
  Adjusted<TopKShares> experts({.k = 2, .over = ShareOver::experts, .capacity = 1.5f}, z);
  check_adjust_gradient(experts, z);
  experts(z);
  // what each token gets in all is the capacity, but for epsilon: no gradient that a router could learn from
  REQUIRE(norm(flat(experts.gradient(Rows(8, Row(4, 1.0))))) < 1e-6);
  REQUIRE(norm(flat(experts.gradient(some_logits(8, 4, 1)))) > 0.1);
  Adjusted<TopKShares> batch({.k = 3, .tokens_per_sequence = 3}, z);
  check_adjust_gradient(batch, z);
}

TEST_CASE("shares of the k best: each expert takes half of a sequence, first of those that chose it") {
  auto const z = some_logits(12, 4); // three sequences of four
  for (auto const over : {ShareOver::batch, ShareOver::experts}) {
    Adjusted<TopKShares> shares({.k = 1, .over = over, .tokens_per_sequence = 4}, z);
    auto const g = shares(z);
    auto& f = shares.fixture; // whose logits are the shares now
    f.select<IdentityScore>(ExpertChoice{.places = 2, .tokens_per_sequence = 4});
    auto const chosen = f.chosen();
    for (std::size_t begin = 0; begin < 12; begin += 4)
      for (int e = 0; e < 4; ++e) {
        std::vector<std::size_t> takes, wants;
        for (std::size_t t = begin; t < begin + 4; ++t) {
          if (std::find(chosen[t].begin(), chosen[t].end(), e) != chosen[t].end()) takes.push_back(t);
          if (g[t][std::size_t(e)] > 0) wants.push_back(t);
        }
        REQUIRE(takes.size() == 2); // exactly, also where fewer tokens chose it
        for (auto const t : takes)
          for (auto const other : wants) // nobody with a larger share was left out
            REQUIRE((std::find(takes.begin(), takes.end(), other) != takes.end() ||
                     g[t][std::size_t(e)] >= g[other][std::size_t(e)]));
      }
  }
}

TEST_CASE("shares of the k best: settings that make no sense, no token, numbers that are none") {
  Sizes sizes;
  sizes.experts = sizes.columns = 4;
  auto const id = [&](TopKShares const& policy) {
    try {
      policy.check(sizes);
    } catch (Error const& error) {
      return error.id();
    }
    return 0;
  };
  CHECK(id({.k = 0}) == 102);
  CHECK(id({.k = 5}) == 102);
  CHECK(id({.capacity = 0}) == 106);
  CHECK(id({.epsilon = 0}) == 106);
  CHECK(id({.tokens_per_sequence = -1}) == 106);
  sizes.columns = 5;
  CHECK(id({}) == 101);
  CHECK(TopKShares{.over = ShareOver::experts}.causal_in(Mode::inference));
  CHECK(!TopKShares{}.causal_in(Mode::inference));
  double const nan = std::numeric_limits<double>::quiet_NaN();
  auto const odd = Adjusted<TopKShares>({.k = 1, .over = ShareOver::experts}, {{nan, 1, 2}})({{nan, 1, 2}});
  REQUIRE((odd[0][0] == 0 && odd[0][1] == 0 && odd[0][2] == Approx(1)));
}

} // namespace top_k_shares_test
