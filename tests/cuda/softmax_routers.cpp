// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/capacity/capacity.hpp>
#include <kokomo/combine/normalized_sum.hpp>
#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/router/normalized_scorer.hpp>
#include <kokomo/router/top_2.hpp>
#include <kokomo/space/normalized_input.hpp>

using namespace kokomo;

namespace {

template <class Exec>
using NormalizedEverything = Layer<Router<NormalizedScorer, TopK<2>>, SoftmaxGate, NoBalancer, GeGluTanhExperts, float,
                                   Exec, NormalizedInput, NormalizedSum>;
template <class Exec>
using CapacityTop2 = Layer<Router<LinearScorer, Top2>, SoftmaxGate, NoBalancer, ReluExperts, float, Exec, Capacity>;

} // namespace

int softmax_routers() {
  int failed = 0;
  failed += !Run<NormalizedEverything>::agrees("NormalizedEverything", [](auto& p) {
    p.experts.intermediate = 16;
    p.gate.expert_scales = true;
  });
  failed += !Run<CapacityTop2>::agrees("CapacityTop2", [](auto& p) {
    p.experts.intermediate = 16;
    p.experts.bias = true;
    p.capacity = {.order = CapacityOrder::token_priority, .factor = 0.5};
    p.gate.normalize = Normalize::sum;
    p.gate.drops = Drops::renormalize;
  });
  return failed;
}
