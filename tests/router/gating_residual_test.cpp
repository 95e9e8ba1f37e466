// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/scorer_fixture.hpp>

#include <kokomo/router/gating_residual.hpp>
#include <kokomo/router/hidden_layer_scorer.hpp>

namespace gating_residual_test {

using namespace kokomo;
using namespace kokomo::test;

template <class V> Rows matrix_of(V const& view) {
  return in_rows(in_double(to_host(view)), view.extent(0));
}
Rows products(Rows const& rows, Rows const& weight) {
  Rows out(rows.size(), Row(weight.size(), 0.0));
  for (std::size_t t = 0; t < rows.size(); ++t)
    for (std::size_t e = 0; e < weight.size(); ++e)
      for (std::size_t h = 0; h < rows[t].size(); ++h) out[t][e] += rows[t][h] * weight[e][h];
  return out;
}

template <class Act> void check_hidden_layer(bool biases) {
  ScorerFixture<HiddenLayerScorer<Act>> f({.hidden = 5, .biases = biases}, 6, 4, 3);
  auto hidden = products(matrix_of(f.x), matrix_of(f.parameters.hidden_weight));
  auto const hidden_bias = in_double(to_host(f.parameters.hidden_bias)), bias = in_double(to_host(f.parameters.bias));
  for (auto& row : hidden)
    for (std::size_t m = 0; m < 5; ++m) row[m] = Act{}.value(row[m] + (biases ? hidden_bias[m] : 0.0));
  auto z = products(hidden, matrix_of(f.parameters.weight));
  for (auto& row : z)
    for (std::size_t e = 0; e < 3; ++e) row[e] += biases ? bias[e] : 0.0;
  CHECK(relative_error(flat(f.forward()), flat(z)) < 1e-13); // sums of five terms in another order
  check_scorer_gradients(f);
}

TEST_CASE("a perceptron of one hidden layer: its formula and its gradients") {
  check_hidden_layer<Tanh>(false);
  check_hidden_layer<GeluTanh>(true);
  REQUIRE(Tanh{}.value(0.3) == Approx(std::tanh(0.3)));
  REQUIRE_THROWS_AS((HiddenLayerScorer<>{}.check(Sizes{})), Error);
}

TEST_CASE("a gating residual adds the logits of the layer below, and passes gradients down to it") {
  using Scorer = GatingResidual<LinearScorer>;
  ScorerFixture<Scorer> f({}, 5, 4, 3);
  OwnedMatrix<double, Exec> previous("previous", 5, 3), d_previous("d_previous", 5, 3);
  f.fill(previous);
  f.inputs.previous_logits = previous, f.d_inputs.previous_logits = d_previous;
  auto const own = products(matrix_of(f.x), matrix_of(f.parameters.weight)),
             residual = products(matrix_of(previous), matrix_of(f.parameters.residual));
  auto expected = own;
  for (std::size_t t = 0; t < 5; ++t)
    for (std::size_t e = 0; e < 3; ++e) expected[t][e] += residual[t][e];
  CHECK(relative_error(flat(f.forward()), flat(expected)) < 1e-13);
  check_scorer_gradients(f, [&](auto const& check) { check(previous, d_previous); });

  Kokkos::deep_copy(f.parameters.residual, 0.0); // nothing is remembered
  CHECK(relative_error(flat(f.forward()), flat(own)) < 1e-13);

  // what the layer above asks for is added to the gradient of this layer's own logits
  OwnedMatrix<double, Exec> above("above", 5, 3);
  f.fill(above);
  Row const d(15, 0.25), asked = in_double(to_host(above));
  Row both = d;
  for (std::size_t i = 0; i < 15; ++i) both[i] += asked[i];
  f.backward(both);
  auto const dx = to_host(f.dx), weight = to_host(f.gradients.weight);
  f.inputs.d_logits = above;
  f.backward(d);
  REQUIRE(to_host(f.dx) == dx);
  REQUIRE(to_host(f.gradients.weight) == weight);
}

TEST_CASE("the lowest layer has no residual") {
  using Scorer = GatingResidual<LinearScorer>;
  Scorer const scorer{.residual = false};
  ScorerFixture<Scorer> f(scorer, 5, 4, 3);
  auto const own = products(matrix_of(f.x), matrix_of(f.parameters.weight));
  CHECK(relative_error(flat(f.forward()), flat(own)) < 1e-13);
  REQUIRE(f.parameters.residual.size() == 0);
  check_scorer_gradients(f);
  OwnedMatrix<double, Exec> const previous("previous", 5, 3);
  REQUIRE_THROWS_AS((Scorer{}.check_inputs<double, Exec>({}, f.sizes)), Error);
  Scorer::Inputs<double, Exec> given;
  given.previous_logits = previous;
  REQUIRE_THROWS_AS((scorer.check_inputs<double, Exec>(given, f.sizes)), Error);
}

} // namespace gating_residual_test
