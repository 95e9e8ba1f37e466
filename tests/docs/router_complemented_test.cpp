// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/experts/pass_through.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/router/complemented.hpp>

TEST_CASE("complemented") {
  // [snippet:complemented]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::Complemented<>, kokomo::TopK<1>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, kokomo::PassThrough>;
  Example<Layer> run({.tokens = 1, .hidden = 2, .experts = 3});
  run.set_x({{1, 2}});
  example::fill(run.parameters.router.complement, 10); // C(h) = (10 (1 + 2), 10 (1 + 2))
  run.forward();
  REQUIRE(close(run.output(), {{1 + 30, 2 + 30}}));
  // [/snippet]
}
