// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// What decides over a whole batch.
#include "run.hpp"

#include <kokomo/models/batch_routing.hpp>
#include <kokomo/soft_moe.hpp>

using namespace kokomo;

namespace {

template <class Exec>
using Choice = Layer<Router<LinearScorer, ExpertChoice>, SigmoidGate, MembershipLoss, AnyPlainExperts, float, Exec>;
template <class Exec>
using Transport = Layer<Router<LinearScorer, SinkhornTopK>, SoftmaxGate, NoBalancer, AnyPlainExperts, double, Exec,
                        SelectiveSinkhorn>;
template <class Exec>
using Auction =
    Layer<Router<LinearScorer, BalancedAssignment>, SigmoidGate, NoBalancer, AnyPlainExperts, float, Exec, Capacity>;
template <class Exec>
using Duals = Layer<Router<LinearScorer, TopK<>>, SigmoidGate, BipBalancing, AnyPlainExperts, double, Exec>;

/// Forward and backward of a layer that Run does not know.
template <class Exec> std::vector<double> soft_moe() {
  using Soft = SoftMoe<AnyPlainExperts, float, Exec>;
  Exec const exec;
  Soft const layer({.tokens = 37, .hidden = 24, .experts = 8},
                   {.slots = 2, .tokens_per_sequence = 10, .experts = {.intermediate = 16}});
  auto const parameters = layer.make_parameters(exec), grads = layer.make_parameters(exec);
  unsigned seed = 1;
  parameters.for_each([&](std::string const&, auto const& view) { Run<Choice>::fill(view, ++seed); });
  OwnedMatrix<float, Exec> const x("x", 37, 24), y("y", 37, 24), dy("dy", 37, 24), dx("dx", 37, 24);
  Run<Choice>::fill(x, ++seed), Run<Choice>::fill(dy, ++seed);
  auto const plan = layer.plan(exec);
  Workspace<Exec> const workspace(exec, plan);
  Tape<Exec> tape(exec, plan);
  typename Soft::Inputs inputs;
  inputs.x = x;
  layer.forward(exec, parameters, inputs, y, workspace, tape);
  layer.backward(exec, parameters, inputs, dy, dx, grads, workspace, tape);
  auto all = Run<Choice>::read(y);
  for (double const v : Run<Choice>::read(dx)) all.push_back(v);
  return all;
}

} // namespace

int batch_routers() {
  int failed = 0;
  failed += !Run<Choice>::agrees("ExpertChoice", [](auto& p) {
    p.router.selector.tokens_per_sequence = 10;
    p.experts.intermediate = 16;
  });
  failed += !Run<Transport>::agrees("Sinkhorn", [](auto& p) {
    p.adjust.probability = 1;
    p.adjust.detach = false;
    p.experts.intermediate = 16;
  });
  failed += !Run<Auction>::agrees("BalancedAssignment", [](auto& p) {
    p.capacity.order = CapacityOrder::no_token_left_behind;
    p.capacity.factor = 1;
    p.experts.intermediate = 16;
  });
  failed += !Run<Duals>::agrees("BipBalancing", [](auto& p) {
    p.balancer.bins = 64;
    p.experts.intermediate = 16;
  });
  return failed + !agree("SoftMoe", {soft_moe<Kokkos::Cuda>()}, {soft_moe<Host>()}, 1e-4); // as Run
}
