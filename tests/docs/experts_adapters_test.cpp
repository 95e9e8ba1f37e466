// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/experts/merged_adapters.hpp>
#include <kokomo/models/multi_head_routing.hpp>

TEST_CASE("merged_adapters") {
  // [snippet:merged_adapters]
  using Layer = kokomo::models::MultiHeadMean<>;
  Layer::Policies policies;
  kokomo::models::configure_multi_head_routing(policies, /*tasks*/ 1, /*splits*/ 1, /*skills*/ 2, /*rank*/ 1);
  Example<Layer> run({.tokens = 1, .hidden = 2, .experts = 2}, policies);
  Kokkos::View<kokomo::index_t*> const task("task", 1);
  run.inputs.scorer.row_of_token = task;
  run.forward();
  auto const x = host(run.x);
  auto const a = host(run.parameters.experts.in), b = host(run.parameters.experts.out);
  double const u = x(0, 0) * (a(0, 0, 0) + a(1, 0, 0)) / 2 + x(0, 1) * (a(0, 1, 0) + a(1, 1, 0)) / 2;
  REQUIRE(close(run.output(), {{u * (b(0, 0, 0) + b(1, 0, 0)) / 2, u * (b(0, 0, 1) + b(1, 0, 1)) / 2}}));
  // [/snippet]
}
