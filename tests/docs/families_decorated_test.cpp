// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/decorated.hpp>
#include <kokomo/models/mixtral.hpp>

TEST_CASE("decorated") {
  // [snippet:decorated]
  using Layer = kokomo::models::Healed<kokomo::models::Steered<kokomo::models::Mixtral<>>>;
  Layer::Policies policies{.router = {.selector = {.inner = {.k = 1}}},
                           .experts = {.intermediate = 4},
                           .adjust = {.mode = kokomo::SteeringMode::hard}};
  Example<Layer> run({.tokens = 2, .hidden = 3, .experts = 3}, policies);
  run.set_logits({{3, 2, 0}, {0, 2, 1}});
  policies.adjust.set(run.exec, run.state.adjust, {2}, {}, run.layer.sizes()); // towards expert 2
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{2}, {2}});
  example::set(run.state.selector.failed, 1, 2); // which fails
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}});
  REQUIRE(run.status().rerouted == 2);
  // [/snippet]
}
