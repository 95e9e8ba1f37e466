// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/router/normalized_scorer.hpp>

namespace normalized_scorer_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T>
using Subject = Layer<Router<NormalizedScorer, TopK<>>, NormalizedSoftmaxGate, NoBalancer, SwiGluExperts, T, Exec>;

template <class T> typename Subject<T>::Policies settings(NormalizedScorer const& scorer) {
  return {.router = {.scorer = scorer, .selector = {.k = 2}}, .experts = {.intermediate = 3}};
}

TEST_CASE("normalised scorer equals the reference") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 1, .experts = 2}, {.tokens = 33, .hidden = 9, .experts = 5}};
  NormalizedScorer const with_all{.linear = {.bias = true, .multiplier = 2, .softcap = 1.5f}, .epsilon = 0.5f};
  for (auto const& scorer : {NormalizedScorer{}, with_all}) {
    check_shapes<Subject<double>>(shapes, [&](Shape const&) { return settings<double>(scorer); });
    check_shapes<Subject<float>>(shapes, [&](Shape const&) { return settings<float>(scorer); });
  }
}

TEST_CASE("normalised scorer: logits do not see the size of the input") {
  Shape const shape{.tokens = 12, .hidden = 5, .experts = 4};
  Fixture<Subject<double>> one(shape, settings<double>({.epsilon = 0})), five(shape, settings<double>({.epsilon = 0}));
  auto x = to_host(one.x);
  for (double& value : x) value *= 5;
  to_device(x, five.x);
  one.forward(), five.forward();
  REQUIRE(relative_error(flat(five.result().logits), flat(one.result().logits)) <= 1e-14); // a handful of roundings
  REQUIRE(relative_error(flat(five.result().y), flat(one.result().y)) > 1);
}

TEST_CASE("normalised scorer: gradients equal central differences") {
  Fixture<Subject<double>> fixture({.tokens = 5, .hidden = 4, .experts = 4},
                                   settings<double>({.linear = {.bias = true, .softcap = 2}, .epsilon = 0.1f}));
  check_gradients(fixture);
}

TEST_CASE("normalised scorer of another tensor: gradients equal central differences") {
  Shape const shape{.tokens = 6, .hidden = 3, .experts = 4, .router_hidden = 5};
  Fixture<Subject<double>> fixture(shape, settings<double>({}), 5);
  check_forward(fixture);
  check_gradients(fixture);
}

} // namespace normalized_scorer_test
