// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <discipline/check.hpp>

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/balancer/z_loss.hpp>
#include <kokomo/capacity/capacity.hpp>
#include <kokomo/router/group_limited_top_k.hpp>
#include <kokomo/router/top_2.hpp>

using namespace kokomo;
using Exec = Kokkos::DefaultExecutionSpace;

TEST_CASE("discipline: groups, selection bias, shared expert with a gate, bfloat16") {
  using Composition = Layer<Router<LinearScorer, GroupLimitedTopK<>>, NormalizedSigmoidGate, SelectionBias,
                            WithShared<SwiGluExperts, SigmoidShare>, bfloat16>;
  Composition::Policies policies;
  policies.router.selector = {.k = 3, .groups = 4, .allowed_groups = 2};
  policies.experts.routed.intermediate = 10;
  policies.experts.shared.intermediate = 7;
  discipline::check<Composition>(policies);
}

TEST_CASE("discipline: capacity, three balancers, scales, a scorer with bias and softcap") {
  using Composition = Layer<Router<LinearScorer, Top2>, ScoreGate<SoftmaxScore, Normalize::p_norm>,
                            Balancers<SelectionBias, LoadBalancingLoss, ZLoss>, ReluExperts, float, Exec, Capacity>;
  Composition::Policies policies;
  policies.router.scorer = {.bias = true, .multiplier = 0.5f, .softcap = 5, .round_logits = true};
  policies.gate.expert_scales = true;
  policies.capacity.factor = 0.75f;
  policies.capacity.order = CapacityOrder::token_priority;
  policies.capacity.tokens_per_sequence = 11;
  std::get<1>(policies.balancer.parts).tokens_per_sequence = 11;
  policies.experts.intermediate = 9;
  policies.experts.bias = true;
  discipline::check<Composition>(policies, 33, 5);
}
