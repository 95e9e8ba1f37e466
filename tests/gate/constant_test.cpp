// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/gate/constant.hpp>

namespace constant_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T>
using Subject = Layer<Router<LinearScorer, TopK<>>, ConstantGate, NoBalancer, SwiGluExperts, T, Exec>;

template <class T> typename Subject<T>::Policies settings(float value) {
  return {.router = {.selector = {.k = 2}}, .gate = {.value = value}, .experts = {.intermediate = 3}};
}

TEST_CASE("a constant gate equals the reference") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 1, .experts = 2}, {.tokens = 21, .hidden = 5, .experts = 4}};
  check_shapes<Subject<double>>(shapes, [](Shape const&) { return settings<double>(1); });
  check_shapes<Subject<float>>(shapes, [](Shape const&) { return settings<float>(0.5f); });
}

TEST_CASE("no gradient of a constant gate reaches the router") {
  Fixture<Subject<double>> fixture({.tokens = 6, .hidden = 3, .experts = 4}, settings<double>(0.75f));
  fixture.set_mask({1, 1, 0, 1, 1, 1});
  check_forward(fixture);
  check_gradients(fixture);
  fixture.forward();
  fixture.backward();
  REQUIRE(norm(to_host(fixture.gradients.router.weight)) == 0);
}

} // namespace constant_test
