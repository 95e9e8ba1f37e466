// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/combine/normalized_sum.hpp>

namespace normalized_sum_test {

using namespace kokomo;
using namespace kokomo::test;

template <class Experts, class T>
using Subject = Layer<Router<LinearScorer, TopK<>>, NormalizedSigmoidGate, NoBalancer, Experts, T, Exec, NormalizedSum>;
template <class T> using Plain = Subject<SwiGluExperts, T>;
template <class T> using Shared = Subject<WithShared<SwiGluExperts>, T>;

std::vector<NormalizedSum> const variants{{.epsilon = 0.1f}, {.routed_scale = 2.5f, .epsilon = 0.01f, .offset = 1}};

TEST_CASE("the normalised sum equals the reference, without shared experts") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 2, .experts = 2}, {.tokens = 21, .hidden = 6, .experts = 4}};
  for (auto const& combine : variants) {
    check_shapes<Plain<double>>(shapes, [&](Shape const&) {
      return Plain<double>::Policies{.experts = {.intermediate = 3}, .combine = combine};
    });
    Fixture<Plain<double>> fixture({.tokens = 5, .hidden = 3, .experts = 3},
                                   {.experts = {.intermediate = 2}, .combine = combine});
    fixture.set_mask({1, 0, 1, 1, 1}); // a sum of zero: y = 0, a finite gradient
    check_forward(fixture);
    check_gradients(fixture);
  }
}

TEST_CASE("the normalised sum equals the reference, with shared experts") {
  for (auto const& combine : variants) {
    Fixture<Shared<double>> fixture(
        {.tokens = 5, .hidden = 3, .experts = 3},
        {.experts = {.routed = {.intermediate = 2}, .shared = {.intermediate = 3}}, .combine = combine});
    check_forward(fixture);
    check_gradients(fixture);
    Fixture<Shared<float>> in_float(
        {.tokens = 21, .hidden = 6, .experts = 4},
        {.experts = {.routed = {.intermediate = 2}, .shared = {.intermediate = 3}}, .combine = combine});
    check_forward(in_float);
  }
}

} // namespace normalized_sum_test
