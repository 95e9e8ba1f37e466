// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/gate/joint.hpp>

namespace joint_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T>
using Subject = Layer<Router<LinearScorer, TopK<>>, JointSigmoidGate, SelectionBias,
                      WithShared<SwiGluExperts, JointShare>, T, Exec>;

template <class T> typename Subject<T>::Policies settings(index_t shared, int k = 2) {
  return {.router = {.scorer = {.bias = true}, .selector = {.k = k}},
          .gate = {.scale = 2.5f},
          .experts = {.routed = {.intermediate = 3}, .shared = {.intermediate = 2}, .count = shared}};
}

TEST_CASE("the joint gate equals the reference with one and more shared experts") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 2, .experts = 2}, {.tokens = 21, .hidden = 5, .experts = 6}};
  for (index_t const shared : {1, 3}) {
    check_shapes<Subject<double>>(shapes, [&](Shape const&) { return settings<double>(shared); });
    check_shapes<Subject<float>>(shapes, [&](Shape const&) { return settings<float>(shared); });
  }
}

TEST_CASE("the joint gate spends one budget on chosen and shared experts") {
  Fixture<Subject<double>> fixture({.tokens = 5, .hidden = 3, .experts = 4}, settings<double>(2));
  to_device(std::vector<double>{0.5}, fixture.parameters.gate.global_scale);
  fixture.forward();
  auto const weights = fixture.result().weights;
  auto const shared = in_rows(to_host(fixture.layer.saved(fixture.tape).gate.shared_weight), 5);
  for (std::size_t t = 0; t < 5; ++t)
    REQUIRE(weights[t][0] + weights[t][1] + shared[t][0] + shared[t][1] == Approx(2.5 * 0.5).epsilon(1e-14));
}

TEST_CASE("the joint gate: gradients equal central differences, of masked tokens too") {
  Fixture<Subject<double>> fixture({.tokens = 6, .hidden = 3, .experts = 4}, settings<double>(2));
  fixture.set_mask({1, 0, 1, 1, 1, 1}); // a masked token still visits the shared experts
  check_forward(fixture);
  check_gradients(fixture);
}

} // namespace joint_test
