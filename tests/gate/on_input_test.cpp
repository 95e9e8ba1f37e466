// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/capacity/capacity.hpp>
#include <kokomo/gate/on_input.hpp>
#include <kokomo/space/latent.hpp>

namespace on_input_test {

using namespace kokomo;
using namespace kokomo::test;

/// Llama 4, with a capacity.
template <class Gate, class T>
using Subject = Layer<Router<LinearScorer, TopK<>>, Gate, NoBalancer, WithShared<SwiGluExperts>, T, Exec, Capacity>;

template <class Layer> typename Layer::Policies settings(int k) {
  return {.router = {.selector = {.k = k}},
          .experts = {.routed = {.intermediate = 3, .bias = true}, .shared = {.intermediate = 2}},
          .capacity = {.places = 3}};
}

TEST_CASE("a gate on the input equals the reference: expert(w x)") {
  using Double = Subject<OnInput<SigmoidGate>, double>;
  using Float = Subject<OnInput<SigmoidGate>, float>;
  for (int const k : {1, 2}) {
    std::vector<Shape> const shapes{{.tokens = 1, .hidden = 1, .experts = 2},
                                    {.tokens = 21, .hidden = 5, .experts = 4}};
    check_shapes<Double>(shapes, [&](Shape const&) { return settings<Double>(k); });
    check_shapes<Float>(shapes, [&](Shape const&) { return settings<Float>(k); });
  }
}

TEST_CASE("on the input is not on the output: the nonlinearity sees the weight") {
  Shape const shape{.tokens = 8, .hidden = 4, .experts = 3};
  Fixture<Subject<OnInput<SigmoidGate>, double>> on_input(shape, settings<Subject<OnInput<SigmoidGate>, double>>(1));
  Fixture<Subject<SigmoidGate, double>> on_output(shape, settings<Subject<SigmoidGate, double>>(1));
  on_input.forward(), on_output.forward();
  REQUIRE(on_input.result().weights == on_output.result().weights);
  REQUIRE(relative_error(flat(on_input.result().y), flat(on_output.result().y)) > 0.05);
}

TEST_CASE("running every expert, on zeros where it was not chosen, is the same only for experts without biases") {
  using Double = Subject<OnInput<SigmoidGate>, double>;
  for (bool const bias : {false, true}) {
    auto policies = settings<Double>(1);
    policies.experts.routed.bias = bias;
    policies.capacity.places = 8;
    Fixture<Double> fixture({.tokens = 8, .hidden = 4, .experts = 3}, policies);
    fixture.forward();
    auto const described = describe(fixture.layer);
    auto const in = fixture.reference_inputs();
    reference::Layer const reference(described, in);
    auto dense = fixture.result().y;
    for (std::size_t t = 0; t < 8; ++t)
      for (int e = 0; e < 3; ++e) {
        if (e == fixture.result().choice[t][0]) continue;
        auto const of_zero = reference.expert(e, reference::Row(4, 0.0));
        for (std::size_t h = 0; h < 4; ++h) dense[t][h] += of_zero[h];
      }
    REQUIRE((dense == fixture.result().y) == !bias);
  }
}

TEST_CASE("a gate on the input: gradients equal central differences") {
  using Double = Subject<OnInput<SigmoidGate>, double>;
  Fixture<Double> fixture({.tokens = 7, .hidden = 3, .experts = 3}, settings<Double>(2));
  fixture.set_mask({1, 1, 1, 0, 1, 1, 1});
  check_gradients(fixture);
  REQUIRE(fixture.result().dropped > 0);
}

TEST_CASE("a gate on the input of latent experts: forward and gradients") {
  using Inner = Layer<Router<LinearScorer, TopK<>>, OnInput<NormalizedSigmoidGate>, NoBalancer, SwiGluExperts, double,
                      Exec, Latent>;
  Fixture<Inner> fixture({.tokens = 5, .hidden = 4, .experts = 3},
                         {.router = {.selector = {.k = 2}}, .experts = {.intermediate = 3}, .space = {.size = 2}});
  check_forward(fixture);
  check_gradients(fixture);
}

} // namespace on_input_test
