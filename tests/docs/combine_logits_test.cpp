// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/combine/logit_add.hpp>
#include <kokomo/experts/pass_through.hpp>
#include <kokomo/gate/constant.hpp>

TEST_CASE("logit_add") {
  // [snippet:logit_add]
  using Experts = kokomo::WithShared<kokomo::PassThrough>; // routed and shared part are x, logits over three symbols
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, Experts, float, Kokkos::DefaultExecutionSpace, kokomo::LogitAdd>;
  Example<Layer> run({.tokens = 1, .hidden = 3, .experts = 2});
  run.set_x({{std::log(1.0) + 5, std::log(2.0) + 5, std::log(3.0) + 5}}); // probabilities 1/6, 2/6, 3/6, and a constant
  run.forward();
  REQUIRE(close(run.output(), {{std::log(1 / 14.0), std::log(4 / 14.0), std::log(9 / 14.0)}})); // their squares
  // [/snippet]
}
