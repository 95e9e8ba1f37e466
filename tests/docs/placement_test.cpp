// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/placement/expert_map.hpp>
#include <kokomo/placement/one_to_one.hpp>

TEST_CASE("one_to_one") {
  // [snippet:one_to_one]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>>; // OneToOne is the default
  Layer const layer({.tokens = 1, .hidden = 2, .experts = 5}, {.experts = {.intermediate = 4}});
  REQUIRE(layer.describe_parameters().experts.down.extent(0) == 5);
  static_assert(!Layer::has_placement);
  // [/snippet]
}

TEST_CASE("expert_map") {
  // [snippet:expert_map]
  using Layer =
      kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate, kokomo::NoBalancer,
                    kokomo::SwiGluExperts, float, Kokkos::DefaultExecutionSpace, kokomo::TiedExperts>;
  Layer::Policies const policies{
      .router = {.selector = {.k = 2}}, .experts = {.intermediate = 4}, .placement = {.stored = 2}};
  Example<Layer> run({.tokens = 2, .hidden = 3, .experts = 3}, policies);
  policies.placement.set(run.exec, run.state.placement, {0, 1, 0}); // experts 0 and 2 share a place
  run.set_logits({{2, 0, 1}, {0, 2, 1}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 2}, {1, 2}}); // the router still knows three
  auto const calls = host(run.layer.saved(run.tape).placement.executed.expert_offsets);
  REQUIRE(calls(1) - calls(0) == 2); // the first token's two choices are one call
  REQUIRE(calls(2) - calls(1) == 1);
  // [/snippet]
}
