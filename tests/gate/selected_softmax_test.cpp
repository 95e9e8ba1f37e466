// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/capacity/capacity.hpp>
#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/router/given.hpp>

namespace selected_softmax_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T>
using Subject = Layer<Router<LinearScorer, Given>, SelectedSoftmaxGate, NoBalancer, SwiGluExperts, T, Exec, Capacity>;

/// Choices with gaps, a duplicate, a token without expert, and drops.
template <class T> Fixture<Subject<T>> subject(SelectedSoftmaxGate const& gate) {
  Fixture<Subject<T>> fixture(
      {.tokens = 6, .hidden = 4, .experts = 4},
      {.router = {.selector = {.k = 3}}, .gate = gate, .experts = {.intermediate = 3}, .capacity = {.places = 3}});
  fixture.set_choice({0, 1, 2, 3, none, 0, 0, 0, 1, none, none, none, 2, 0, 3, 1, 3, 0}, 3);
  return fixture;
}

TEST_CASE("softmax over the chosen equals the reference, its weights sum to the scale") {
  for (float const scale : {1.0f, 0.25f, -2.0f}) {
    auto fixture = subject<double>({.scale = scale});
    check_forward(fixture);
    auto const out = fixture.result();
    REQUIRE(out.dropped > 0);
    for (std::size_t t = 0; t < 6; ++t) {
      double sum = 0;
      for (double const w : out.weights[t]) sum += w;
      REQUIRE(sum == Approx(t == 3 ? 0 : scale).margin(1e-15)); // three terms
    }
    auto in_float = subject<float>({.scale = scale});
    check_forward(in_float);
  }
}

TEST_CASE("softmax over the chosen does not move when all logits do") {
  auto fixture = subject<double>({});
  fixture.forward();
  auto const before = fixture.result().weights;
  auto weight = to_host(fixture.parameters.router.weight);
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] += double(1 + i % 4); // the same vector for every expert
  to_device(weight, fixture.parameters.router.weight);
  fixture.forward();
  REQUIRE(relative_error(flat(fixture.result().weights), flat(before)) <= 1e-14); // rounding of the logits, near 10
}

TEST_CASE("softmax over the chosen: gradients equal central differences") {
  auto fixture = subject<double>({.scale = 1.5f});
  check_gradients(fixture);
}

} // namespace selected_softmax_test
