// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/experts/given_outputs.hpp>
#include <kokomo/experts/pass_through.hpp>
#include <kokomo/gate/constant.hpp>

TEST_CASE("given_outputs") {
  // [snippet:given_outputs]
  using Outputs = kokomo::GivenOutputs<float, Kokkos::DefaultExecutionSpace>;
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, Outputs>;
  Outputs const experts{.outputs = kokomo::OwnedTensor<float, Layer::Exec>("outputs", 2, 1, 2)};
  example::set(experts.outputs, 7, 1, 0, 0); // expert 1 says (7, 0) of token 0
  Example<Layer> run({.tokens = 1, .hidden = 2, .experts = 2}, {.experts = experts});
  run.set_logits({{0, 1}});
  run.forward();
  REQUIRE(run.output() == Table<double>{{7, 0}});
  // [/snippet]
}

TEST_CASE("pass_through") {
  // [snippet:pass_through]
  // y = routed(x) + x: a residual connection within the layer
  using Outputs = kokomo::GivenOutputs<float, Kokkos::DefaultExecutionSpace>;
  using Experts = kokomo::WithShared<Outputs, kokomo::Ungated, kokomo::PassThrough>;
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, Experts>;
  Layer::Policies policies;
  policies.experts.routed.outputs = kokomo::OwnedTensor<float, Layer::Exec>("outputs", 2, 1, 2); // zeros
  Example<Layer> run({.tokens = 1, .hidden = 2, .experts = 2}, policies);
  run.set_x({{3, 4}});
  run.forward();
  REQUIRE(run.output() == Table<double>{{3, 4}});
  // [/snippet]
}
