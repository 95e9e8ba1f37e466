// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/experts/row_norm.hpp>

namespace row_norm_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T, class Gate = NormalizedSigmoidGate>
using Subject = Layer<Router<LinearScorer, TopK<>>, Gate, NoBalancer, RowNorm<SwiGluExperts>, T, Exec>;

template <class Layer> typename Layer::Policies settings(float epsilon, float offset) {
  return {.router = {.selector = {.k = 2}},
          .experts = {.inner = {.intermediate = 3, .bias = true}, .epsilon = epsilon, .offset = offset}};
}

TEST_CASE("normalised expert outputs equal the reference") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 2, .experts = 2}, {.tokens = 21, .hidden = 6, .experts = 4}};
  for (float const offset : {0.0f, 1.0f}) {
    check_shapes<Subject<double>>(shapes, [&](Shape const&) { return settings<Subject<double>>(0.01f, offset); });
    check_shapes<Subject<float>>(shapes, [&](Shape const&) { return settings<Subject<float>>(0.01f, offset); });
  }
}

TEST_CASE("each executed row has a mean square of one: scaled first, then normalised") {
  auto top_1 = settings<Subject<double>>(0, 0);
  top_1.router.selector.k = 1; // of normalised weights: y is the row
  Fixture<Subject<double>> fixture({.tokens = 12, .hidden = 5, .experts = 3}, top_1);
  fixture.forward();
  for (auto const& y : fixture.result().y) REQUIRE(norm(y) * norm(y) / 5 == Approx(1).epsilon(1e-14));
}

TEST_CASE("normalised expert outputs: gradients equal central differences, with the weight on either side") {
  Shape const shape{.tokens = 6, .hidden = 3, .experts = 3};
  Fixture<Subject<double>> on_output(shape, settings<Subject<double>>(0.1f, 1));
  on_output.set_mask({1, 1, 0, 1, 1, 1});
  check_gradients(on_output);
  using OnTheInput = Subject<double, OnInput<SigmoidGate>>;
  Fixture<OnTheInput> on_input(shape, settings<OnTheInput>(0.1f, 0));
  check_forward(on_input);
  check_gradients(on_input);
}

} // namespace row_norm_test
