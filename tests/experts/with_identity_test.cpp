// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/experts/with_identity.hpp>
#include <kokomo/router/given.hpp>

namespace with_identity_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T, class Gate = SoftmaxGate, class Selector = TopK<>>
using Subject = Layer<Router<LinearScorer, Selector>, Gate, NoBalancer, WithIdentity<SwiGluExperts>, T, Exec>;

template <class Layer> typename Layer::Policies settings(index_t identity, index_t zero, int k) {
  typename Layer::Policies policies;
  policies.router.selector.k = k;
  policies.experts = {.inner = {.intermediate = 3, .bias = true}, .identity = identity, .zero = zero};
  return policies;
}

TEST_CASE("identity and zero experts equal the reference, and own no parameters") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 2, .experts = 2}, {.tokens = 31, .hidden = 6, .experts = 3}};
  for (auto const& counts : {std::pair(0, 0), std::pair(2, 0), std::pair(0, 1), std::pair(3, 2)}) {
    int const identity = counts.first, zero = counts.second; // clang 14 captures no structured bindings
    INFO("identity " << identity << ", zero " << zero);
    check_shapes<Subject<double>>(shapes, [&](Shape const&) { return settings<Subject<double>>(identity, zero, 2); });
    check_shapes<Subject<float>>(shapes, [&](Shape const&) { return settings<Subject<float>>(identity, zero, 2); });
  }
  Subject<double> const layer(shapes[1], settings<Subject<double>>(3, 2, 2));
  auto const parameters = layer.describe_parameters();
  REQUIRE(parameters.router.weight.extent(0) == 3 + 3 + 2);
  REQUIRE(parameters.experts.gate_up.extent(0) == 3);
  REQUIRE(parameters.experts.down.extent(0) == 3);
}

TEST_CASE("identity and zero experts: gradients equal central differences, with the weight on either side") {
  Shape const shape{.tokens = 9, .hidden = 3, .experts = 2};
  Fixture<Subject<double>> on_output(shape, settings<Subject<double>>(2, 1, 3));
  check_gradients(on_output);
  using OnTheInput = Subject<double, OnInput<SigmoidGate>>;
  Fixture<OnTheInput> on_input(shape, settings<OnTheInput>(2, 1, 3));
  check_forward(on_input);
  check_gradients(on_input);
}

TEST_CASE("a token of identities alone returns its weighted input, one of zeros nothing") {
  using Chosen = Subject<double, SoftmaxGate, Given>;
  Fixture<Chosen> fixture({.tokens = 3, .hidden = 4, .experts = 2}, settings<Chosen>(2, 1, 2));
  fixture.set_choice({2, 3, 4, 4, 3, 4}, 2);
  fixture.forward();
  auto const out = fixture.result();
  auto const x = in_rows(to_host(fixture.x), 3);
  for (int h = 0; h < 4; ++h) {
    REQUIRE(out.y[0][h] == Approx((out.weights[0][0] + out.weights[0][1]) * x[0][h]).epsilon(1e-14));
    REQUIRE(out.y[1][h] == 0);
    REQUIRE(out.y[2][h] == Approx(out.weights[2][0] * x[2][h]).epsilon(1e-14));
  }
  check_gradients(fixture); // experts with weights get none
}

} // namespace with_identity_test
