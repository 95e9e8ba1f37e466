// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/dr_llm.hpp>

TEST_CASE("dr_llm") {
  // [snippet:dr_llm]
  using Layer = kokomo::models::DrLlm<>;
  kokomo::OwnedVector<kokomo::index_t, Layer::Exec> const labels("labels", 12);
  Kokkos::deep_copy(labels, kokomo::none);
  example::set(labels, 0, 0); // the first sequence of six should have skipped the block,
  example::set(labels, 2, 6); // the second should have run it twice
  Example<Layer> run({.tokens = 12, .hidden = 8, .experts = 1},
                     {.router = {.scorer = {.tokens_per_sequence = 6, .inner = {.hidden = 16, .biases = true}}},
                      .balancer = {.labels = labels},
                      .experts = {.inner = {.intermediate = 16}}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.loss() > 0);
  for (std::size_t t = 0; t < 12; ++t) REQUIRE(run.chosen()[t] == run.chosen()[t / 6 * 6]);
  // [/snippet]
}
