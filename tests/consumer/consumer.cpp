// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// A user's program: the default layer, run and checked against its closed form for constant weights.
#include <kokomo/layer.hpp>
#include <kokomo/version.hpp>

#include <cmath>
#include <cstdio>

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  using Exec = Kokkos::DefaultExecutionSpace;
  using Layer = kokomo::Layer<>;

  constexpr int tokens = 3, hidden = 4, experts = 5, width = 6, k = 2;
  Layer const layer({.tokens = tokens, .hidden = hidden, .experts = experts},
                    {.router = {.selector = {.k = k}}, .experts = {.intermediate = width}});
  Exec const exec;
  auto const parameters = layer.make_parameters(exec);
  parameters.for_each([](auto const&, auto const& view) { Kokkos::deep_copy(view, 0.25f); });
  auto const state = layer.make_state(exec);
  kokomo::Plan const plan = layer.plan(exec);
  kokomo::Workspace<Exec> const workspace(exec, plan);
  kokomo::Tape<Exec> tape(exec, plan);

  kokomo::OwnedMatrix<float, Exec> const x("x", tokens, hidden), y("y", tokens, hidden);
  Kokkos::deep_copy(x, 2.0f);
  layer.forward(exec, parameters, state, x, y, workspace, tape);
  exec.fence();

  // Every expert is the same: hidden units silu(u) u with u = 4 * 2 / 4, each output the sum of 6 of them / 4. Equal
  // logits give each of the k chosen experts the softmax weight 1 / experts.
  double const u = hidden * 2.0 * 0.25;
  double const expected = double(k) / experts * width * 0.25 * u * u / (1.0 + std::exp(-u));
  auto const result = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), y);
  double worst = 0;
  for (int token = 0; token < tokens; ++token) {
    for (int column = 0; column < hidden; ++column) {
      worst = std::fmax(worst, std::fabs(result(token, column) - expected) / expected);
    }
  }
  std::printf("kokomo %d.%d.%d: y = %g, relative error %.1e\n", KOKOMO_VERSION_MAJOR, KOKOMO_VERSION_MINOR,
              KOKOMO_VERSION_PATCH, double(result(0, 0)), worst);
  return worst < 1e-6 ? 0 : 1; // float32 rounding of some ten operations
}
