// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>
#include <support/routing_fixture.hpp>

#include <kokomo/models/product_keys.hpp>

using kokomo::test::RoutingFixture;

TEST_CASE("pair_gate") {
  // [snippet:pair_gate]
  //                       rows    columns of a 2 x 3 grid: expert 3 i + j
  RoutingFixture<> run({{1, 0.5, 0, 3, 2}});
  run.sizes.experts = 6;
  run.select<kokomo::IdentityScore>(kokomo::PairTopK{.k = 2, .rows = 2});
  REQUIRE(run.chosen()[0] == std::vector<int>{1, 4}); // logits 4 and 3.5
  run.weigh(kokomo::PairGate{.weight = kokomo::PairWeight::relu, .rows = 2});
  REQUIRE(close(run.weights(), {{4, 3.5}}));
  run.weigh(kokomo::PairGate{.rows = 2}); // softmax over the chosen
  REQUIRE(close(run.weights(), {{example::sigmoid(0.5), example::sigmoid(-0.5)}}));
  // [/snippet]
}
