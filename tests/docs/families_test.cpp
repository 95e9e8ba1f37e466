// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/batch_routing.hpp>

TEST_CASE("batch_routing") {
  // [snippet:batch_routing]
  using Layer = kokomo::models::ExpertChoiceNormalized<float>;
  Example<Layer> run({.tokens = 6, .hidden = 8, .experts = 3},
                     {.router = {.selector = {.factor = 1, .tokens_per_sequence = 6}}, // C = 6 / 3
                      .gate = {.scale = 2.5},
                      .experts = {.intermediate = 4}});
  run.forward(kokomo::Mode::training);
  auto const weights = run.weights();
  std::size_t entries = 0;
  for (auto const& row : weights) {
    double sum = 0;
    for (double const w : row) sum += w;
    REQUIRE((row.empty() || std::abs(sum - 2.5) < 1e-5)); // a token that some expert took
    entries += row.size();
  }
  REQUIRE(entries == 3 * 2);
  // [/snippet]
}
