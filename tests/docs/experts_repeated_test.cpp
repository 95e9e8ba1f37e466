// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/experts/repeated.hpp>
#include <kokomo/gate/constant.hpp>

TEST_CASE("repeated") {
  // [snippet:repeated]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, kokomo::RepeatedExperts<>>;
  Example<Layer> run({.tokens = 3, .hidden = 3, .experts = 1}, {.experts = {.inner = {.intermediate = 4}}});
  run.set_logits({{2, 1, 0}, {1, 2, 0}, {0, 1, 2}}); // skip, once, twice
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}, {2}});
  auto const first = run.output();
  REQUIRE(close({first[0]}, {{2, 1, 0}}));
  run.set_x({{2, 1, 0}, {0, 1, 2}, {0, 1, 2}}); // what it skips, and twice what it runs twice
  run.forward();
  REQUIRE(close({run.output()[1]}, {first[2]}));
  // [/snippet]
}
