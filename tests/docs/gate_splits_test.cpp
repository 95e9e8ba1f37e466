// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>

#include <kokomo/gate/split_gate.hpp>
#include <kokomo/router/top_k.hpp>

using kokomo::test::RoutingFixture;

TEST_CASE("split_gate") {
  // [snippet:split_gate]
  RoutingFixture<> f({{0, 0, 2, -2}}); // two splits of two skills
  f.select<kokomo::SigmoidScore>(kokomo::TopK<>{.k = 4});
  f.weigh(kokomo::SplitGate{.splits = 2});
  double const s = 1 / (1 + std::exp(-2.0)); // sigmoid(2), and 1 - s = sigmoid(-2)
  REQUIRE(f.chosen()[0] == std::vector<int>{2, 0, 1, 3});
  for (std::size_t i = 0; i < 4; ++i) REQUIRE(f.weights()[0][i] == Approx(kokomo::test::Row{s, 0.5, 0.5, 1 - s}[i]));
  // [/snippet]
}
