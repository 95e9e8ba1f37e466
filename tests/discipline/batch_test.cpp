// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <discipline/check.hpp>

#include <kokomo/adjust/selective_sinkhorn.hpp>
#include <kokomo/balancer/bip_balancing.hpp>
#include <kokomo/balancer/membership_loss.hpp>
#include <kokomo/capacity/capacity.hpp>
#include <kokomo/router/expert_choice.hpp>
#include <kokomo/router/top_p.hpp>

#include <support/scale_experts.hpp>

using namespace kokomo;

using Host = Kokkos::DefaultExecutionSpace;

TEST_CASE("discipline: experts that choose by a transport plan, a membership loss") {
  using Composition = Layer<Router<LinearScorer, ExpertChoice>, SigmoidGate, MembershipLoss, SwiGluExperts, float, Host,
                            SelectiveSinkhorn>;
  Composition::Policies policies;
  policies.router.selector.tokens_per_sequence = 10;
  policies.adjust.probability = 1;
  policies.adjust.detach = false;
  policies.experts.intermediate = 8;
  discipline::check<Composition>(policies);
}

TEST_CASE("discipline: a varying number of experts a token") {
  using Composition =
      Layer<Router<LinearScorer, TopP>, SoftmaxGate, NoBalancer, kokomo::test::ScaleExperts, float, Host>;
  discipline::check<Composition>({});
}

TEST_CASE("discipline: duals solved on the batch, no token left behind") {
  using Composition =
      Layer<Router<LinearScorer, TopK<>>, SigmoidGate, BipBalancing, SwiGluExperts, float, Host, Capacity>;
  Composition::Policies policies;
  policies.balancer.bins = 16;
  policies.capacity.order = CapacityOrder::no_token_left_behind;
  policies.capacity.factor = 0.5;
  policies.experts.intermediate = 8;
  discipline::check<Composition>(policies);
}
