// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/soft_moe.hpp>

TEST_CASE("soft_moe") {
  // [snippet:soft_moe]
  using Layer = kokomo::SoftMoe<kokomo::AnyPlainExperts, float>;
  Layer const layer({.tokens = 6, .hidden = 4, .experts = 2},
                    {.slots = 3, .tokens_per_sequence = 3, .experts = {.intermediate = 8}});
  Layer::Exec const exec;
  auto const parameters = layer.make_parameters(exec), gradients = layer.make_parameters(exec);
  Kokkos::deep_copy(exec, parameters.scale, 1.0f); // the rest as your initialisation says
  Kokkos::View<float**, Kokkos::LayoutRight> const x("x", 6, 4), y("y", 6, 4), dy("dy", 6, 4), dx("dx", 6, 4);

  auto const plan = layer.plan(exec);
  kokomo::Workspace<Layer::Exec> const workspace(exec, plan);
  kokomo::Tape<Layer::Exec> tape(exec, plan);
  Layer::Inputs inputs;
  inputs.x = x;
  layer.forward(exec, parameters, inputs, y, workspace, tape);
  layer.backward(exec, parameters, inputs, dy, dx, gradients, workspace, tape);
  exec.fence();
  auto const dispatch = host(layer.saved(tape).dispatch); // zeros everywhere: each slot reads a third of each token
  REQUIRE(std::abs(dispatch(0, 0) - 1.0f / 3) < 1e-6);
  // [/snippet]
}
