// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/adjust/selective_sinkhorn.hpp>

TEST_CASE("selective_sinkhorn") {
  // [snippet:selective_sinkhorn]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::NormalizedSoftmaxGate,
                              kokomo::NoBalancer, kokomo::SwiGluExperts, float, Kokkos::DefaultExecutionSpace,
                              kokomo::SelectiveSinkhorn>;
  Example<Layer> run({.tokens = 4, .hidden = 2, .experts = 2},
                     {.experts = {.intermediate = 4}, .adjust = {.probability = 1}}); // every training step
  run.set_logits({{4, 0}, {3, 0}, {2, 0}, {1, 0}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}, {1}, {1}});
  double mass = 0; // the logits are those of the plan: columns hold T / E = 2
  for (auto const& row : run.logits()) mass += std::exp(row[0]);
  REQUIRE(std::abs(mass - 2) < 1e-3); // twice the tolerance of 1e-4, and float32
  run.forward(kokomo::Mode::inference);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}, {0}, {0}});
  // [/snippet]
}
