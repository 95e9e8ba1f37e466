// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/capacity/capacity.hpp>
#include <kokomo/capacity/no_capacity.hpp>

namespace capacity_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T>
using Subject = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, T, Exec, Capacity>;
using Kept = std::vector<std::vector<bool>>;

template <class T> typename Subject<T>::Policies settings(Capacity const& capacity, int k) {
  return {.router = {.selector = {.k = k}}, .experts = {.intermediate = 2}, .capacity = capacity};
}

/// Tokens with these logits: x is the identity, the router's weight their transpose.
Fixture<Subject<double>> with_logits(std::vector<std::vector<double>> const& logits, Capacity const& capacity, int k) {
  std::size_t const tokens = logits.size(), experts = logits[0].size();
  Fixture<Subject<double>> fixture(
      {.tokens = offset_t(tokens), .hidden = offset_t(tokens), .experts = offset_t(experts)},
      settings<double>(capacity, k));
  std::vector<double> x(tokens * tokens, 0.0), weight(experts * tokens);
  for (std::size_t t = 0; t < tokens; ++t) {
    x[t * tokens + t] = 1;
    for (std::size_t e = 0; e < experts; ++e) weight[e * tokens + t] = logits[t][e];
  }
  to_device(x, fixture.x);
  to_device(weight, fixture.parameters.router.weight);
  return fixture;
}
Kept kept(std::vector<std::vector<double>> const& logits, Capacity const& capacity, int k) {
  auto fixture = with_logits(logits, capacity, k);
  check_forward(fixture);
  return fixture.result().kept;
}

TEST_CASE("Switch: where all tokens want one expert, the first C are served in order") {
  std::vector<std::vector<double>> const alike(6, {0, 1});
  REQUIRE(kept(alike, {.places = 4}, 1) == Kept{{1}, {1}, {1}, {1}, {0}, {0}});
  auto fixture = with_logits(alike, {.places = 4}, 1);
  fixture.forward();
  auto const out = fixture.result();
  REQUIRE(out.dropped == 2);
  REQUIRE(out.tokens_without_expert == 2);
  REQUIRE(out.choice[5] == std::vector<int>{1}); // chosen, and not executed
  REQUIRE(out.y[5] == reference::Row(6, 0.0));
}

TEST_CASE("GShard: second choices never displace first choices") {
  // tokens 0 and 1 have expert 1 second, tokens 2 and 3 first
  std::vector<std::vector<double>> const logits{{2, 1}, {2, 1}, {1, 2}, {1, 2}};
  REQUIRE(kept(logits, {.places = 2}, 2) == Kept{{1, 0}, {1, 0}, {1, 0}, {1, 0}});
  REQUIRE(kept(logits, {.places = 3}, 2) == Kept{{1, 1}, {1, 0}, {1, 1}, {1, 0}});
}

TEST_CASE("V-MoE: with token priority the least certain tokens are dropped") {
  // one choice: the largest probability orders; 4 tokens for expert 0, two places
  std::vector<std::vector<double>> const logits{{1, 0}, {3, 0}, {2, 0}, {4, 0}, {0, 1}};
  Capacity const two{.order = CapacityOrder::token_priority, .places = 2};
  REQUIRE(kept(logits, two, 1) == Kept{{0}, {1}, {0}, {1}, {1}});
  // a second choice queues behind every first choice, and is ordered by its token's first score: for expert 2 these
  // are tokens 2 (first), then 1 (p = e^3 / ...), then 0, although token 0 likes expert 2 better than token 1 does
  std::vector<std::vector<double>> const three{{1, 0, 0.9}, {3, 0, 0.1}, {0, 0.2, 0.3}};
  REQUIRE(kept(three, two, 2) == Kept{{1, 0}, {1, 1}, {1, 1}});
  // with enough places the order does not matter
  Capacity const enough{.order = CapacityOrder::token_priority, .places = 5};
  REQUIRE(kept(logits, enough, 2) == Kept(5, {1, 1}));
}

TEST_CASE("Megatron: by score the best C entries stay, whatever choice they were") {
  // expert 1: token 0 first with p ~ 0.52, token 1 second with p ~ 0.45, token 2 first with p ~ 0.88
  std::vector<std::vector<double>> const logits{{0, 0.1}, {0.2, 0}, {0, 2}};
  REQUIRE(kept(logits, {.order = CapacityOrder::score, .places = 2}, 2) == Kept{{1, 1}, {1, 0}, {1, 0}});
  REQUIRE(kept(logits, {.order = CapacityOrder::score, .places = 1}, 2) == Kept{{0, 0}, {1, 0}, {1, 0}});
}

TEST_CASE("equal scores are served in token order") {
  std::vector<std::vector<double>> const alike(5, {1, 0});
  for (auto const order : {CapacityOrder::token_priority, CapacityOrder::score})
    REQUIRE(kept(alike, {.order = order, .places = 3}, 1) == Kept{{1}, {1}, {1}, {0}, {0}});
}

TEST_CASE("each sequence has its own places, the last one too if it is short") {
  std::vector<std::vector<double>> const alike(7, {1, 0});
  REQUIRE(kept(alike, {.places = 2, .tokens_per_sequence = 3}, 1) == Kept{{1}, {1}, {0}, {1}, {1}, {0}, {1}});
}

TEST_CASE("places follow from the factor, the fraction or the number, and the minimum") {
  Sizes sizes;
  sizes.tokens = 10;
  sizes.per_token = 2;
  sizes.experts = 4;
  REQUIRE(Capacity{.factor = 1}.limit(sizes) == 5);
  REQUIRE(Capacity{.factor = 1.25f}.limit(sizes) == 7); // 6.25
  REQUIRE(Capacity{.fraction = 0.25f}.limit(sizes) == 3);
  REQUIRE(Capacity{.fraction = 1}.limit(sizes) == 10);
  REQUIRE(Capacity{.places = 9}.limit(sizes) == 9);
  REQUIRE(Capacity{.factor = 1, .minimum = 8}.limit(sizes) == 8);
  REQUIRE(Capacity{.factor = 1, .minimum = 4}.limit(sizes) == 5);
  REQUIRE(Capacity{.factor = 1, .tokens_per_sequence = 6}.limit(sizes) == 3);
  // a factor that binary fractions miss: 1.2 * 10 * 2 / 4 = 6 exactly
  REQUIRE(Capacity{.factor = 1.2}.limit(sizes) == 6);
  REQUIRE(Capacity{.fraction = 0.7}.limit(sizes) == 7);
}

TEST_CASE("a call with fewer tokens has fewer places") {
  Fixture<Subject<double>> fixture({.tokens = 40, .hidden = 2, .experts = 2}, settings<double>({.factor = 1}, 1), 1, 8);
  to_device(std::vector<double>(4, 0.0), fixture.parameters.router.weight); // all want expert 0
  fixture.forward();
  REQUIRE(fixture.result().dropped == 4);
}

TEST_CASE("capacity equals the reference in every order, by batch and by sequence, and drops nothing if it need not") {
  for (auto const order : {CapacityOrder::position, CapacityOrder::token_priority, CapacityOrder::score})
    for (offset_t const sequence : {0, 9}) {
      std::vector<Shape> const shapes{{.tokens = 1, .hidden = 3, .experts = 3},
                                      {.tokens = 75, .hidden = 3, .experts = 5}};
      for (int const k : {1, 3})
        for (double const factor : {0.5, 1.0, 5.0}) {
          Capacity const capacity{.order = order, .factor = factor, .tokens_per_sequence = sequence};
          check_shapes<Subject<double>>(shapes, [&](Shape const&) { return settings<double>(capacity, k); });
        }
      Capacity const capacity{.order = order, .factor = 1, .tokens_per_sequence = sequence};
      check_shapes<Subject<float>>(shapes, [&](Shape const&) { return settings<float>(capacity, 3); });
    }
}

TEST_CASE("masked tokens take no place") {
  auto fixture = with_logits(std::vector<std::vector<double>>(5, {1, 0}), {.places = 2}, 1);
  fixture.set_mask({0, 1, 0, 1, 1});
  check_forward(fixture);
  REQUIRE(fixture.result().kept == Kept{{0}, {1}, {0}, {1}, {0}});
  REQUIRE(fixture.result().dropped == 1);
  REQUIRE(fixture.result().tokens_without_expert == 3);
}

TEST_CASE("capacity: gradients equal central differences in every order") {
  for (auto const order : {CapacityOrder::position, CapacityOrder::token_priority, CapacityOrder::score}) {
    Fixture<Subject<double>> fixture({.tokens = 9, .hidden = 3, .experts = 3},
                                     settings<double>({.order = order, .places = 4}, 2));
    check_gradients(fixture);
    REQUIRE(fixture.result().dropped > 0);
  }
}

TEST_CASE("no capacity drops nothing") {
  Fixture<Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, double, Exec, NoCapacity>>
      fixture({.tokens = 6, .hidden = 2, .experts = 3}, {.experts = {.intermediate = 2}});
  to_device(std::vector<double>(6, 0.0), fixture.parameters.router.weight); // all want experts 0 and 1
  check_forward(fixture);
  REQUIRE(fixture.result().dropped == 0);
}

} // namespace capacity_test
