// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/experts/mixed.hpp>
#include <kokomo/gate/constant.hpp>

TEST_CASE("mixed") {
  // [snippet:mixed]
  using Experts = kokomo::MixedExperts<kokomo::SwiGluExperts, kokomo::ReluExperts>;
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, Experts>;
  // Expert 0 is a wide SwiGLU, experts 1 and 2 are narrow.
  Example<Layer> run(
      {.tokens = 3, .hidden = 3, .experts = 3},
      {.experts = {.parts = {kokomo::SwiGluExperts{.intermediate = 16}, {.intermediate = 2}}, .count = {1, 2}}});
  REQUIRE(std::get<0>(run.parameters.experts.parts).down.extent(2) == 16);
  REQUIRE(std::get<1>(run.parameters.experts.parts).up.extent(0) == 2);
  run.set_logits({{1, 0, 0}, {0, 1, 0}, {0, 0, 1}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}, {2}});
  example::fill(std::get<1>(run.parameters.experts.parts).down, 0); // the narrow ones return nothing now
  run.forward();
  REQUIRE(close({run.output()[1], run.output()[2]}, {{0, 0, 0}, {0, 0, 0}}));
  REQUIRE(!close({run.output()[0]}, {{0, 0, 0}}));
  // [/snippet]
}
