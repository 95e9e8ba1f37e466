// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// The default layer, forward and backward: what a user's first file costs.
#include <kokomo/layer.hpp>

using Exec = Kokkos::DefaultExecutionSpace;
using Layer = kokomo::Layer<>;

void run(Exec const& exec, Layer const& layer, Layer::Parameters const& parameters, Layer::State const& state,
         kokomo::OwnedMatrix<float, Exec> const& x, kokomo::OwnedMatrix<float, Exec> const& y,
         Layer::Parameters const& grads, kokomo::Workspace<Exec> const& workspace, kokomo::Tape<Exec>& tape) {
  layer.forward(exec, parameters, state, x, y, workspace, tape);
  layer.backward(exec, parameters, state, x, y, x, grads, workspace, tape);
  layer.step(exec, state);
}
