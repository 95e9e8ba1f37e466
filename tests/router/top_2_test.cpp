// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/router/top_2.hpp>

namespace top_2_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T>
using Subject = Layer<Router<LinearScorer, Top2>, NormalizedSoftmaxGate, NoBalancer, SwiGluExperts, T, Exec>;

template <class T> typename Subject<T>::Policies settings(Top2 const& selector) {
  return {.router = {.selector = selector}, .experts = {.intermediate = 3}};
}

/// Many tokens with the same logits.
Fixture<Subject<double>> repeated(Top2 const& selector, std::vector<double> const& logits, offset_t tokens) {
  Fixture<Subject<double>> fixture({.tokens = tokens, .hidden = 1, .experts = offset_t(logits.size())},
                                   settings<double>(selector));
  to_device(logits, fixture.parameters.router.weight);
  to_device(std::vector<double>(std::size_t(tokens), 1.0), fixture.x);
  return fixture;
}

/// Share of tokens whose second expert is e.
double share(reference::Result const& out, int e) {
  int count = 0;
  for (auto const& choice : out.choice) count += choice[1] == e ? 1 : 0;
  return double(count) / double(out.choice.size());
}

/// Four standard deviations of a share p of n draws: seeds are fixed, so this never turns by itself.
double spread(double p, double n) {
  return 4 * std::sqrt(p * (1 - p) / n);
}

TEST_CASE("top-2 with the best second expert equals the reference") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 1, .experts = 2}, {.tokens = 40, .hidden = 7, .experts = 5}};
  check_shapes<Subject<double>>(shapes, [](Shape const&) { return settings<double>({}); });
  check_shapes<Subject<float>>(shapes, [](Shape const&) { return settings<float>({}); });
  auto tie = repeated({}, {0, 2, 2, 2}, 1);
  tie.forward();
  REQUIRE(tie.result().choice[0] == std::vector<int>{1, 2});
}

TEST_CASE("a sampled second expert follows the softmax of the rest") {
  int const n = 4000;
  std::vector<double> const logits{0.5, 2, 1, -0.5};
  auto fixture = repeated({.second = SecondExpert::sampling, .seed = 7}, logits, n);
  fixture.forward();
  auto const out = fixture.result();
  for (auto const& choice : out.choice) REQUIRE(choice[0] == 1);
  auto const rest = reference::softmax({0.5, -reference::infinity, 1, -0.5});
  for (int const e : {0, 2, 3}) REQUIRE(std::abs(share(out, e) - rest[e]) < spread(rest[e], n));
}

TEST_CASE("a random second expert is kept with probability min(1, 2 w2)") {
  int const n = 4000;
  // p = 0.6, 0.25, 0.1, 0.05
  std::vector<double> const logits{std::log(0.6), std::log(0.25), std::log(0.1), std::log(0.05)};
  auto plain = repeated({.second = SecondExpert::random, .seed = 7}, logits, n);
  plain.forward();
  REQUIRE(std::abs(share(plain.result(), 1) - 0.5) < spread(0.5, n));
  REQUIRE(share(plain.result(), none) == Approx(1 - share(plain.result(), 1)));

  double const w2 = 0.25 / 0.85;
  auto normalized = repeated({.second = SecondExpert::random, .normalized_threshold = true, .seed = 7}, logits, n);
  normalized.forward();
  REQUIRE(std::abs(share(normalized.result(), 1) - 2 * w2) < spread(2 * w2, n));

  auto certain = repeated({.second = SecondExpert::random, .seed = 7}, {0, 0}, 100); // w2 = 1/2
  certain.forward();
  REQUIRE(share(certain.result(), 1) == 1);
}

TEST_CASE("random choices depend on seed, step and token alone") {
  std::vector<double> const logits{0.5, 2, 1, -0.5};
  auto const choose = [&](std::uint64_t seed, std::uint64_t step, offset_t tokens) {
    auto fixture = repeated({.second = SecondExpert::sampling, .seed = seed}, logits, tokens);
    fixture.step = step;
    fixture.forward();
    return fixture.result().choice;
  };
  auto const base = choose(1, 2, 50);
  REQUIRE(choose(1, 2, 50) == base);
  REQUIRE(choose(2, 2, 50) != base);
  REQUIRE(choose(1, 3, 50) != base);
  auto const fewer = choose(1, 2, 20); // another batch, the same tokens
  REQUIRE(std::equal(fewer.begin(), fewer.end(), base.begin()));
}

TEST_CASE("top-2: masked tokens and gradients, with a second expert that is not always there") {
  Fixture<Subject<double>> fixture({.tokens = 9, .hidden = 3, .experts = 4},
                                   settings<double>({.second = SecondExpert::random, .seed = 3}));
  fixture.set_mask({1, 1, 1, 0, 1, 1, 1, 1, 1});
  fixture.forward();
  auto const out = fixture.result();
  REQUIRE(out.choice[3] == std::vector<int>{none, none});
  double const without = share(out, none);
  REQUIRE(without > 1.0 / 9); // one more than the masked token
  REQUIRE(without < 1);
  check_gradients(fixture);
}

} // namespace top_2_test
