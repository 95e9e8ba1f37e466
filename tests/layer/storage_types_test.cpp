// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/balancer/z_loss.hpp>
#include <kokomo/layer.hpp>

namespace storage_types_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T>
using Subject =
    Layer<Router<LinearScorer, TopK<>>, NormalizedSigmoidGate, ZLoss, WithShared<SwiGluExperts, SigmoidShare>, T, Exec>;

template <class T> typename Subject<T>::Policies settings() {
  return {.router = {.scorer = {.bias = true}, .selector = {.k = 2}},
          .experts = {.routed = {.intermediate = 7, .bias = true}, .shared = {.intermediate = 5}}};
}

/// Forward against the reference, and gradients against those of a float64 layer with the same numbers.
template <class T> void check(double gradient_bound) {
  for (Shape const& shape :
       {Shape{.tokens = 1, .hidden = 3, .experts = 2}, Shape{.tokens = 45, .hidden = 9, .experts = 5}}) {
    INFO("tokens " << shape.tokens);
    Fixture<Subject<T>> fixture(shape, settings<T>());
    check_forward(fixture);
    fixture.backward();
    auto const out = gradients_of(fixture);

    Fixture<Subject<double>> exact(shape, settings<double>());
    auto const parameters = fixture.reference_inputs().parameters;
    exact.parameters.for_each([&](std::string const& name, auto const& view) { to_device(parameters.at(name), view); });
    to_device(in_double(to_host(fixture.x)), exact.x);
    to_device(in_double(to_host(fixture.dy)), exact.dy);
    exact.forward();
    exact.backward();
    REQUIRE(exact.result().choice == fixture.result().choice);
    for (auto const& [name, gradient] : gradients_of(exact)) {
      INFO(name);
      CHECK(relative_error(out.at(name), gradient) <= gradient_bound);
    }
  }
}

// Forward: tolerance<T>(). Backward reads what forward rounded and rounds the hidden layer and its results again: twice
// the roundings in 16 bits, where second derivatives of order one weigh them. float32 keeps its bound.
TEST_CASE("float32 layers: forward and gradients") {
  check<float>(1e-5);
}
TEST_CASE("bfloat16 layers: forward and gradients") {
  check<bfloat16>(2e-2);
}
TEST_CASE("float16 layers: forward and gradients") {
  check<float16>(2.5e-3);
}

} // namespace storage_types_test
