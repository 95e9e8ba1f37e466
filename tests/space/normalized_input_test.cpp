// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/router/normalized_scorer.hpp>
#include <kokomo/space/normalized_input.hpp>

namespace normalized_input_test {

using namespace kokomo;
using namespace kokomo::test;

/// Gemma 4: router and experts see the input normalised, each in its own way.
template <class T>
using Subject = Layer<Router<NormalizedScorer, TopK<>>, NormalizedSoftmaxGate, NoBalancer, WithShared<GeGluTanhExperts>,
                      T, Exec, NormalizedInput>;

template <class T> typename Subject<T>::Policies settings(float epsilon) {
  return {.router = {.selector = {.k = 2}},
          .gate = {.expert_scales = true},
          .experts = {.routed = {.intermediate = 3}, .shared = {.intermediate = 2}},
          .space = {.epsilon = epsilon}};
}

TEST_CASE("experts on a normalised input equal the reference") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 1, .experts = 2}, {.tokens = 21, .hidden = 6, .experts = 4}};
  check_shapes<Subject<double>>(shapes, [](Shape const&) { return settings<double>(1e-6f); });
  check_shapes<Subject<float>>(shapes, [](Shape const&) { return settings<float>(0.5f); });
}

TEST_CASE("experts on a normalised input: gradients equal central differences") {
  Fixture<Subject<double>> fixture({.tokens = 5, .hidden = 4, .experts = 3}, settings<double>(0.1f));
  fixture.set_mask({1, 1, 0, 1, 1});
  check_gradients(fixture);
}

} // namespace normalized_input_test
