// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Gates around gates, and what stands between backward and an optimiser.
#include "run.hpp"

#include "../support/scale_experts.hpp"

#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/detached.hpp>
#include <kokomo/gate/straight_through.hpp>
#include <kokomo/router/gumbel_top_k.hpp>
#include <kokomo/stats/choices.hpp>
#include <kokomo/transform/freeze_by_score.hpp>
#include <kokomo/transform/reinforce.hpp>
#include <kokomo/transform/spectral.hpp>

using namespace kokomo;
using kokomo::test::ScaleExperts;

namespace {

template <class Exec>
using Hard =
    Layer<Router<LinearScorer, TopK<2>>, Detached<StraightThrough<SoftmaxGate>>, NoBalancer, ScaleExperts, float, Exec>;
template <class Exec>
using Drawn = Layer<Router<LinearScorer, GumbelTopK>, ConstantGate, ScoreFunction<Exec>, ScaleExperts, float, Exec>;
template <class Exec>
using Plain = Layer<Router<LinearScorer, TopK<2>>, SoftmaxGate, NoBalancer, AnyPlainExperts, float, Exec>;

/// A router's gradient without what old inputs span, then the gradients of experts that are frozen.
template <class Exec> std::vector<double> transformed() {
  Exec const exec;
  Plain<Exec> const layer({.tokens = 37, .hidden = 12, .experts = 4}, {.experts = {.intermediate = 6}});
  auto const parameters = layer.make_parameters(exec), grads = layer.make_parameters(exec);
  auto const state = layer.make_state(exec);
  unsigned seed = 5;
  parameters.for_each([&](std::string const&, auto const& view) { Run<Plain>::fill(view, ++seed); });
  OwnedMatrix<float, Exec> const x("x", 37, 12), y("y", 37, 12), dx("dx", 37, 12);
  Run<Plain>::fill(x, 1);
  auto const plan = layer.plan(exec);
  Workspace<Exec> const workspace(exec, plan);
  Tape<Exec> tape(exec, plan);
  layer.forward(exec, parameters, state, x, y, workspace, tape);
  layer.backward(exec, parameters, state, x, y, dx, grads, workspace, tape);

  SecondMoment<Exec> const moment(exec, 12);
  Spectrum<Exec> const spectrum(exec, 12);
  moment.template accumulate<float>(exec, x);
  spectrum.decompose(exec, moment, 0.9);
  SpectralTransform{}.template apply<float>(exec, spectrum, grads.router.weight);

  ExpertUsage<Exec> const usage(exec, 4);
  FreezeByScore const freeze{.threshold = 0.2f};
  freeze.update(exec, usage, x, layer.saved(tape).assignment);
  freeze.decide(exec, usage);
  freeze.clear(exec, usage, grads.experts);
  auto all = Run<Plain>::read(grads.router.weight);
  grads.experts.for_each(
      [&](auto const&, auto const& view) {
        for (double const value : Run<Plain>::read(view)) all.push_back(value);
      },
      "");
  for (auto const& entries : stats::choices(exec, layer.saved(tape).assignment).of_token)
    for (auto const& entry : entries) all.push_back(entry.expert);
  return all;
}

} // namespace

int transforms() {
  int failed = 0;
  failed += !Run<Hard>::agrees("Hard", [](auto&) {});
  failed += !Run<Drawn>::agrees("Drawn", [](auto& p) {
    p.router.selector.k = 2;
    p.balancer.advantage = decltype(p.balancer.advantage)("advantage", 1);
  });
  return failed + !agree("transformed", {transformed<Kokkos::Cuda>()}, {transformed<Host>()}, 1e-4);
}
