// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/multi_head_routing.hpp>

TEST_CASE("multi_head_routing") {
  // [snippet:multi_head_routing]
  using Layer = kokomo::models::MultiHeadRouting<>;
  Layer::Policies policies;
  kokomo::models::configure_multi_head_routing(policies, /*tasks*/ 3, /*splits*/ 2, /*skills*/ 4, /*rank*/ 1);
  Example<Layer> run({.tokens = 5, .hidden = 6, .experts = 2 * 4}, policies);
  Kokkos::View<kokomo::index_t*> const task("task", 5); // zeros: all tokens are of the first task
  run.inputs.scorer.row_of_token = task;
  run.forward();
  auto const weights = run.weights();
  double sum = 0;
  for (double const w : weights[0]) sum += w;
  REQUIRE(std::abs(sum - 2) < 1e-5); // one for each split
  // [/snippet]
}
