// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <discipline/check.hpp>

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/budget_loss.hpp>
#include <kokomo/balancer/coverage_then_confidence.hpp>
#include <kokomo/balancer/entropy_loss.hpp>
#include <kokomo/balancer/expert_router_coupling.hpp>
#include <kokomo/balancer/importance_loss.hpp>
#include <kokomo/balancer/load_loss.hpp>
#include <kokomo/balancer/orthogonality_loss.hpp>
#include <kokomo/balancer/published_losses.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/gate/straight_through.hpp>
#include <kokomo/router/noisy_scorer.hpp>
#include <kokomo/transform/reinforce.hpp>

using namespace kokomo;
using Exec = Kokkos::DefaultExecutionSpace;

TEST_CASE("discipline: losses of logits and of parameters, biases, a straight-through gate") {
  using Composition = Layer<Router<LinearScorer, TopK<>>, StraightThrough<SoftmaxGate>,
                            Balancers<SelectionBias, SwitchLoss<Chosen>, PooledLoss<Exec>, BudgetLoss<Exec>,
                                      EntropyLoss, CoverageThenConfidence, OrthogonalityLoss, ExpertRouterCoupling>>;
  Composition::Policies policies;
  policies.experts.intermediate = 8;
  policies.balancer.parts = {SelectionBias{.schedule = BiasSchedule::inverse_sqrt},
                             deepseek_communication_loss(0.1f, 4, 2),
                             PooledLoss<Exec>{.pool = LossPool<Exec>(Exec{}, 8)},
                             BudgetLoss<Exec>{.budget = Budget<Exec>(Exec{}, 8)},
                             EntropyLoss{},
                             CoverageThenConfidence{},
                             OrthogonalityLoss{},
                             ExpertRouterCoupling{}};
  Kokkos::fence();
  discipline::check<Composition>(policies);
}

TEST_CASE("discipline: importance and load of a noisy router, a score function") {
  using Composition = Layer<Router<NoisyScorer, TopK<>>, SoftmaxGate,
                            Balancers<ImportanceLoss<>, LoadLoss, ScoreFunction<Exec>, SelectionBias>>;
  Composition::Policies policies;
  policies.experts.intermediate = 8;
  std::get<2>(policies.balancer.parts).advantage = OwnedVector<double, Exec>("advantage", 1);
  Kokkos::fence();
  discipline::check<Composition>(policies);
}
