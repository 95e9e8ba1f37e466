// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/gate/detached.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/gate/straight_through.hpp>

// A batch of logits whose best expert was chosen; weigh and gate_gradient are what a layer calls.
using kokomo::test::fixture_of;
using Table = kokomo::test::Rows;

TEST_CASE("detached") {
  // [snippet:detached]
  kokomo::Detached<kokomo::SigmoidGate> const gate{{.scale = 2}};
  auto routing = fixture_of({.logits = {{0, -1}}, .k = 1});
  routing.weigh(gate);
  REQUIRE(routing.weights() == Table{{1}}); // 2 sigmoid(0)
  REQUIRE(routing.gate_gradient(gate, /*d_weight*/ {3}) == Table{{0, 0}});
  // [/snippet]
}

TEST_CASE("straight_through") {
  // [snippet:straight_through]
  kokomo::StraightThrough<kokomo::SigmoidGate> const gate;
  auto routing = fixture_of({.logits = {{0, -1}}, .k = 1});
  routing.weigh(gate);
  REQUIRE(routing.weights() == Table{{1}});                                   // hard
  REQUIRE(routing.gate_gradient(gate, /*d_weight*/ {3}) == Table{{0.75, 0}}); // 3 sigmoid'(0)
  // [/snippet]
}
