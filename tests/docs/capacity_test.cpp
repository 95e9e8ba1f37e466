// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/capacity/capacity.hpp>
#include <kokomo/capacity/no_capacity.hpp>
#include <kokomo/router/top_k.hpp>

TEST_CASE("no_capacity") {
  // [snippet:no_capacity]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>>; // NoCapacity is the default
  Example<Layer> run({.tokens = 3, .hidden = 2, .experts = 2}, {.experts = {.intermediate = 4}});
  run.set_logits({{1, 0}, {1, 0}, {1, 0}});
  run.forward();
  REQUIRE(run.executed() == Table<kokomo::index_t>{{0}, {0}, {0}}); // one expert takes all
  REQUIRE(run.status().dropped == 0);
  // [/snippet]
}

TEST_CASE("capacity") {
  // [snippet:capacity]
  using Layer =
      kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::SoftmaxGate, kokomo::NoBalancer,
                    kokomo::SwiGluExperts, float, Kokkos::DefaultExecutionSpace, kokomo::Capacity>;
  auto const run_with = [](kokomo::CapacityOrder order) {
    Example<Layer> run({.tokens = 3, .hidden = 2, .experts = 2},
                       {.experts = {.intermediate = 4}, .capacity = {.order = order, .places = 2}});
    run.set_logits({{1, 0}, {2, 0}, {3, 0}}); // all want expert 0, which takes two
    run.forward();
    REQUIRE(run.status().dropped == 1);
    return run.executed();
  };
  REQUIRE(run_with(kokomo::CapacityOrder::position) == Table<kokomo::index_t>{{0}, {0}, {}});
  REQUIRE(run_with(kokomo::CapacityOrder::score) == Table<kokomo::index_t>{{}, {0}, {0}});
  // [/snippet]
}
