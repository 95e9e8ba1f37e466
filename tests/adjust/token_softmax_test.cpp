// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "adjusted.hpp"

#include <kokomo/adjust/token_softmax.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/router/expert_choice.hpp>

namespace token_softmax_test {

using namespace kokomo;
using namespace kokomo::test;

TEST_CASE("a softmax over tokens: each expert shares one unit among the tokens of a sequence") {
  Adjusted<TokenSoftmax> adjusted({.tokens_per_sequence = 5}, some_logits(9, 3));
  adjusted.fixture.set_token_mask({1, 1, 0, 1, 1, 1, 1, 1, 0});
  auto const z = some_logits(9, 3), out = adjusted(z);
  std::vector<int> const on{1, 1, 0, 1, 1, 1, 1, 1, 0};
  for (std::size_t begin : {0, 5})
    for (std::size_t e = 0; e < 3; ++e) {
      double sum = 0, shares = 0;
      std::size_t const end = std::min(begin + 5, z.size());
      for (std::size_t t = begin; t < end; ++t) sum += on[t] ? std::exp(z[t][e]) : 0;
      for (std::size_t t = begin; t < end; ++t) {
        if (on[t]) REQUIRE(out[t][e] == Approx(z[t][e] - std::log(sum)).epsilon(1e-13));
        shares += on[t] ? std::exp(out[t][e]) : 0;
      }
      REQUIRE(shares == Approx(1).epsilon(1e-13));
    }
  Adjusted<TokenSoftmax> whole({.tokens_per_sequence = 4}, some_logits(9, 3));
  check_adjust_gradient(whole, some_logits(9, 3));
  REQUIRE_THROWS_AS((TokenSoftmax{.tokens_per_sequence = -1}.check(Sizes{})), Error);
}

TEST_CASE("tensorflow/mesh's expert selection: shares of the takers, divided by their number") {
  auto const z = some_logits(8, 3);
  Adjusted<TokenSoftmax> adjusted({.tokens_per_sequence = 4}, z);
  auto const out = adjusted(z);
  auto& f = adjusted.fixture;
  using Gate = ScoreGate<ExponentialScore, Normalize::count>;
  f.select<ExponentialScore>(ExpertChoice{.places = 2, .tokens_per_sequence = 4});
  f.weigh(Gate{});
  std::vector<std::vector<int>> takers(8);
  for (std::size_t begin : {0, 4})
    for (int e = 0; e < 3; ++e) {
      std::vector<std::size_t> order{begin, begin + 1, begin + 2, begin + 3};
      std::stable_sort(order.begin(), order.end(),
                       [&](auto a, auto b) { return z[a][std::size_t(e)] > z[b][std::size_t(e)]; });
      takers[order[0]].push_back(e), takers[order[1]].push_back(e);
    }
  REQUIRE(f.chosen() == takers);
  auto const weights = f.weights();
  for (std::size_t t = 0; t < 8; ++t)
    for (std::size_t i = 0; i < takers[t].size(); ++i)
      REQUIRE(weights[t][i] ==
              Approx(std::exp(out[t][std::size_t(takers[t][i])]) / double(takers[t].size())).epsilon(1e-13));
}

} // namespace token_softmax_test
