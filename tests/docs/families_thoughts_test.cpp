// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/mixture_of_thoughts.hpp>

TEST_CASE("mixture_of_thoughts") {
  // [snippet:mixture_of_thoughts]
  using Layer = kokomo::models::MixtureOfThoughts<>;
  Example<Layer> run(
      {.tokens = 6, .hidden = 8, .experts = 4},
      {.router = {.scorer = {.tokens_per_sequence = 3, .inner = {.hidden = 16, .biases = true}}, .selector = {.k = 3}},
       .balancer = {{{.coefficient = 1e-2f}, {.coefficient = 1e-2f}}},
       .experts = {.intermediate = 16},
       .combine = {.width = 4, .heads = 2}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.loss() > 0);
  REQUIRE(run.chosen()[0].size() == 3);
  REQUIRE(run.chosen()[1] == run.chosen()[0]); // of one sequence
  // [/snippet]
}
