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

TEST_CASE("a network cut into experts of which all are taken with weight one is that network") {
  // fine-grained experts: 4 of 3 columns each against a dense SwiGLU of 12
  Fixture<Subject<double>> fixture({.tokens = 7, .hidden = 5, .experts = 4},
                                   {.router = {.selector = {.k = 4}}, .experts = {.intermediate = 3}});
  fixture.forward();
  auto const x = in_rows(to_host(fixture.x), 7);
  auto const gate_up = to_host(fixture.parameters.experts.gate_up), down = to_host(fixture.parameters.experts.down);
  reference::Rows dense(12, reference::Row(10)); // a column: its row of the gate, then of up
  reference::Rows out(12, reference::Row(5));
  for (std::size_t e = 0; e < 4; ++e)
    for (std::size_t i = 0; i < 3; ++i)
      for (std::size_t h = 0; h < 5; ++h) {
        dense[e * 3 + i][h] = gate_up[(e * 6 + i) * 5 + h];
        dense[e * 3 + i][5 + h] = gate_up[(e * 6 + 3 + i) * 5 + h];
        out[e * 3 + i][h] = down[(e * 5 + h) * 3 + i];
      }
  reference::Rows y(7, reference::Row(5, 0.0));
  for (std::size_t t = 0; t < 7; ++t)
    for (std::size_t i = 0; i < 12; ++i) {
      double g = 0, u = 0;
      for (std::size_t h = 0; h < 5; ++h) g += dense[i][h] * x[t][h], u += dense[i][5 + h] * x[t][h];
      for (std::size_t h = 0; h < 5; ++h) y[t][h] += g / (1 + std::exp(-g)) * u * out[i][h];
    }
  REQUIRE(relative_error(flat(fixture.result().y), flat(y)) < 1e-14); // a dozen terms in another order
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
