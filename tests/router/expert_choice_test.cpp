// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/routing_fixture.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/detail/kth_largest.hpp>
#include <kokomo/router/expert_choice.hpp>

#include <algorithm>

namespace expert_choice_test {

using namespace kokomo;
using namespace kokomo::test;
using Choice = std::vector<std::vector<int>>;

Rows random_logits(std::size_t tokens, std::size_t experts, unsigned seed, double size = 2) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> uniform(-size, size);
  Rows rows(tokens, Row(experts));
  for (auto& row : rows)
    for (double& z : row) z = uniform(engine);
  return rows;
}

/// The definition: sort each column, take the first `places`.
Choice by_sorting(Rows const& scores, std::size_t places, std::size_t sequence) {
  Choice choice(scores.size());
  for (std::size_t begin = 0; begin < scores.size(); begin += sequence)
    for (std::size_t e = 0; e < scores[0].size(); ++e) {
      std::vector<std::size_t> tokens;
      for (std::size_t t = begin; t < std::min(scores.size(), begin + sequence); ++t) tokens.push_back(t);
      std::stable_sort(tokens.begin(), tokens.end(), [&](auto i, auto j) { return scores[i][e] > scores[j][e]; });
      tokens.resize(std::min(places, tokens.size()));
      for (std::size_t const t : tokens) choice[t].push_back(int(e));
    }
  return choice;
}

TEST_CASE("the k-th largest number is that of a sorted list") {
  double const infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<std::vector<double>> lists{
      {3}, {0.0, -0.0, 1, -1}, {infinity, -infinity, 5, 5, 5}, {-infinity, -infinity}, {1e-310, -1e-310, 1e-320}};
  for (auto const& row : random_logits(20, 33, 4, 1e3)) lists.push_back(row);
  auto const check = [&]<class C>(C) {
    for (auto const& list : lists) {
      std::vector<C> values(list.begin(), list.end()), sorted = values;
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      for (std::size_t k = 1; k <= values.size(); ++k)
        REQUIRE(detail::kth_largest<C>(detail::ArrayValues<C>{values.data()}, offset_t(values.size()), offset_t(k)) ==
                sorted[k - 1]);
    }
    std::vector<C> const with_nan{C(nan), 2, C(nan), 1};
    detail::ArrayValues<C> const values{with_nan.data()};
    REQUIRE(detail::kth_largest<C>(values, 4, 2) == C(1));
    REQUIRE(detail::kth_largest<C>(values, 4, 3) == -std::numeric_limits<C>::infinity());
    REQUIRE(detail::kth_largest<C>(values, 0, 1) == -std::numeric_limits<C>::infinity());
  };
  check(double{});
  check(float{});
}

TEST_CASE("experts choose their best tokens, of the batch and of each sequence") {
  for (auto const& [tokens, experts] : std::vector<std::pair<int, int>>{{1, 1}, {7, 3}, {40, 5}, {64, 16}})
    for (offset_t const sequence : {0, 4, 20})
      for (double const factor : {0.3, 1.0, 2.0, 1e9}) {
        auto const logits = random_logits(std::size_t(tokens), std::size_t(experts), unsigned(tokens));
        RoutingFixture<> f(logits);
        ExpertChoice const selector{.factor = factor, .tokens_per_sequence = sequence};
        f.select<SoftmaxScore>(selector);
        auto const n = sequence > 0 ? sequence : offset_t(tokens);
        auto const places =
            std::max(offset_t(1), offset_t(std::ceil(std::min(double(n), factor * double(n) / experts))));
        Rows scores;
        for (auto const& row : logits) scores.push_back(reference::softmax(row));
        REQUIRE(f.chosen() == by_sorting(scores, std::size_t(places), std::size_t(n)));
        if (sequence == 0) REQUIRE(f.loads() == std::vector<offset_t>(std::size_t(experts), std::min(places, n)));
      }
}

TEST_CASE("expert choice: ties, masks, numbers that are none") {
  RoutingFixture<> equal(Rows(5, Row(2, 0.0)));
  equal.select<SoftmaxScore>(ExpertChoice{.places = 2});
  REQUIRE(equal.chosen() == Choice{{0, 1}, {0, 1}, {}, {}, {}});

  RoutingFixture<> masked(Rows(5, Row(2, 0.0)));
  masked.set_token_mask({0, 1, 0, 1, 1});
  masked.set_expert_mask({1, 0});
  masked.select<SigmoidScore>(ExpertChoice{.places = 2});
  REQUIRE(masked.chosen() == Choice{{}, {0}, {}, {0}, {}});
  masked.select<SigmoidScore>(ExpertChoice{.places = 4}); // more places than tokens that may be taken
  REQUIRE(masked.chosen() == Choice{{}, {0}, {}, {0}, {0}});

  double const infinity = reference::infinity, nan = std::nan("");
  RoutingFixture<> odd({{nan, 0}, {infinity, -infinity}, {1, -infinity}, {-infinity, nan}});
  odd.select<IdentityScore>(ExpertChoice{.places = 2});
  REQUIRE(odd.chosen() == Choice{{1}, {0, 1}, {0}, {}}); // NaN ranks with -infinity, and the smaller token first

  RoutingFixture<> nobody(Rows{}, 0, 3);
  nobody.select<SoftmaxScore>(ExpertChoice{});
  REQUIRE(nobody.loads() == std::vector<offset_t>{0, 0, 0});
}

TEST_CASE("expert choice looks at later tokens, a threshold does not") {
  static_assert(!Layer<Router<LinearScorer, ExpertChoice>>::causal);
  auto logits = random_logits(12, 1, 3);
  auto const choose = [&](ExpertChoice const& selector, Mode mode) {
    RoutingFixture<> f(logits);
    f.routing.mode = mode;
    f.select<IdentityScore>(selector);
    auto chosen = f.chosen();
    chosen.pop_back();
    return chosen;
  };
  // Mixture-of-Depths: an eighth of the tokens in training, those with a positive score in inference
  ExpertChoice const depths{.factor = 0.125, .inference = InferenceChoice::above_threshold};
  auto const training = choose(depths, Mode::training), inference = choose(depths, Mode::inference);
  for (std::size_t t = 0; t + 1 < logits.size(); ++t) REQUIRE(inference[t].size() == (logits[t][0] > 0 ? 1 : 0));
  logits.back() = {100};
  REQUIRE(choose(depths, Mode::training) != training);
  REQUIRE(choose(depths, Mode::inference) == inference);
}

TEST_CASE("expert choice: gradients, with weights shared among those who chose") {
  using Subject = Layer<Router<LinearScorer, ExpertChoice>, NormalizedSoftmaxGate, NoBalancer, ScaleExperts, double>;
  Fixture<Subject> fixture({.tokens = 9, .hidden = 3, .experts = 4},
                           {.router = {.selector = {.factor = 1.5, .tokens_per_sequence = 5}}, .gate = {.scale = 2.5}});
  fixture.set_mask({1, 1, 1, 1, 1, 1, 0, 1, 1});
  fixture.forward();
  auto const out = fixture.result();
  REQUIRE(out.tokens_without_expert >= 1);
  for (auto const& weights : out.weights) {
    double sum = 0;
    for (double const w : weights) sum += w;
    REQUIRE((weights.empty() || sum == Approx(2.5)));
  }
  check_gradients(fixture);
}

TEST_CASE("expert choice: settings that make no sense") {
  Sizes const sizes{.tokens = 4, .experts = 2};
  REQUIRE_THROWS_AS((ExpertChoice{.factor = 0}.check(sizes)), Error);
  REQUIRE_THROWS_AS((ExpertChoice{.places = -1}.check(sizes)), Error);
  REQUIRE_THROWS_AS((ExpertChoice{.tokens_per_sequence = -1}.check(sizes)), Error);
}

} // namespace expert_choice_test
