// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/combine/weighted_sum.hpp>

namespace weighted_sum_test {

using namespace kokomo;
using namespace kokomo::test;

template <class Experts, class T>
using Subject = Layer<Router<LinearScorer, TopK<>>, NormalizedSigmoidGate, NoBalancer, Experts, T, Exec, WeightedSum>;
template <class T> using Plain = Subject<SwiGluExperts, T>;
template <class T> using Shared = Subject<WithShared<SwiGluExperts>, T>;

std::vector<WeightedSum> const variants{
    {}, {.routed_scale = 2.5f}, {.scale = 0.5f}, {.bias = true}, {.routed_scale = -1.5f, .scale = 0.25f, .bias = true}};

TEST_CASE("the weighted sum equals the reference with scales and bias, without shared experts") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 1, .experts = 2}, {.tokens = 21, .hidden = 6, .experts = 4}};
  for (auto const& combine : variants) {
    check_shapes<Plain<double>>(shapes, [&](Shape const&) {
      return Plain<double>::Policies{.experts = {.intermediate = 3}, .combine = combine};
    });
    check_shapes<Plain<float>>(shapes, [&](Shape const&) {
      return Plain<float>::Policies{.experts = {.intermediate = 3}, .combine = combine};
    });
    Fixture<Plain<double>> fixture({.tokens = 5, .hidden = 3, .experts = 3},
                                   {.experts = {.intermediate = 2}, .combine = combine});
    fixture.set_mask({1, 0, 1, 1, 1}); // the bias reaches a masked token too
    check_forward(fixture);
    check_gradients(fixture);
  }
}

TEST_CASE("the weighted sum equals the reference with scales and bias, with shared experts") {
  for (auto const& combine : variants) {
    Fixture<Shared<double>> fixture(
        {.tokens = 5, .hidden = 3, .experts = 3},
        {.experts = {.routed = {.intermediate = 2}, .shared = {.intermediate = 3}}, .combine = combine});
    check_forward(fixture);
    check_gradients(fixture);
  }
}

TEST_CASE("two identical tokens have identical outputs, bit for bit, wherever they stand") {
  Fixture<Plain<float>> fixture({.tokens = 67, .hidden = 9, .experts = 5}, {.experts = {.intermediate = 4}});
  auto x = to_host(fixture.x);
  std::copy(x.begin() + 9 * 3, x.begin() + 9 * 4, x.begin() + 9 * 66);
  to_device(x, fixture.x);
  fixture.forward();
  auto const y = fixture.result().y;
  REQUIRE(y[3] == y[66]);
}

} // namespace weighted_sum_test
