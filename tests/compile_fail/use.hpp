// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_COMPILE_FAIL_USE_HPP
#define KOKOMO_TESTS_COMPILE_FAIL_USE_HPP

#include <kokomo/layer.hpp>

/// A whole training step, as a user would meet the message in.
template <class LayerT> void use() {
  using T = typename LayerT::Storage;
  using Exec = typename LayerT::Exec;
  Exec exec;
  LayerT layer(kokomo::Shape{8, 16, 4, 0});
  auto const parameters = layer.make_parameters(exec), gradients = layer.make_parameters(exec);
  auto const state = layer.make_state(exec);
  auto const plan = layer.plan(exec);
  kokomo::Workspace<Exec> const workspace(exec, plan);
  kokomo::Tape<Exec> tape(exec, plan);
  Kokkos::View<T**, Kokkos::LayoutRight, Exec> x("x", 8, 16), y("y", 8, 16), dy("dy", 8, 16), dx("dx", 8, 16);
  layer.forward(exec, parameters, state, x, y, workspace, tape);
  layer.backward(exec, parameters, state, x, dy, dx, gradients, workspace, tape);
  layer.step(exec, state);
}

/// A forward pass alone.
template <class LayerT, class X, class Y> void use_forward(X const& x, Y const& y) {
  using Exec = typename LayerT::Exec;
  Exec exec;
  LayerT layer(kokomo::Shape{8, 16, 4, 0});
  auto const plan = layer.plan(exec);
  kokomo::Tape<Exec> tape(exec, plan);
  layer.forward(exec, layer.make_parameters(exec), layer.make_state(exec), x, y, kokomo::Workspace<Exec>(exec, plan),
                tape);
}

#endif
