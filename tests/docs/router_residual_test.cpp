// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/scorer_fixture.hpp>

#include <kokomo/router/gating_residual.hpp>
#include <kokomo/router/hidden_layer_scorer.hpp>

using kokomo::test::ScorerFixture;
using kokomo::test::to_device;

TEST_CASE("hidden_layer_scorer") {
  // [snippet:hidden_layer_scorer]
  ScorerFixture<kokomo::HiddenLayerScorer<>> run({.hidden = 2}, 1, 1, 1); // one token of width 1, one expert
  to_device(std::vector<double>{1}, run.x);
  to_device(std::vector<double>{1, 2}, run.parameters.hidden_weight);
  to_device(std::vector<double>{3, -1}, run.parameters.weight);
  REQUIRE(run.forward()[0][0] == Approx(3 * std::tanh(1.0) - std::tanh(2.0)));
  // [/snippet]
}

TEST_CASE("gating_residual") {
  // [snippet:gating_residual]
  // Two layers of two experts; in a Layer, previous_logits is layer.saved(tape).scored of the one below.
  ScorerFixture<kokomo::GatingResidual<>> below({.residual = false}, 3, 4, 2), above({}, 3, 4, 2, /*seed*/ 2);
  auto const z = below.forward();
  above.inputs.previous_logits = below.logits;
  Kokkos::deep_copy(above.parameters.weight, 0.0);                       // so that nothing is left but
  to_device(std::vector<double>{0, 1, 1, 0}, above.parameters.residual); // the logits of the other expert below
  REQUIRE(above.forward()[2] == kokomo::test::Row{z[2][1], z[2][0]});
  // [/snippet]
}
