// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/balancer/z_loss.hpp>
#include <kokomo/router/group_limited_top_k.hpp>

using namespace kokomo;

namespace {

template <class Exec>
using GroupedWithShared =
    Layer<Router<LinearScorer, GroupLimitedTopK<>>, NormalizedSigmoidGate,
          Balancers<SelectionBias, LoadBalancingLoss, ZLoss>, WithShared<SwiGluExperts>, bfloat16, Exec>;

} // namespace

int sigmoid_routers() {
  int failed = 0;
  failed += !Run<GroupedWithShared>::agrees("GroupedWithShared", [](auto& p) {
    p.router.selector = {.k = 3, .groups = 4, .allowed_groups = 2};
    p.experts.routed.intermediate = p.experts.shared.intermediate = 16;
  });
  return failed;
}
