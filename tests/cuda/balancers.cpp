// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/balancer/adaptive_l1.hpp>
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
#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/router/noisy_scorer.hpp>
#include <kokomo/router/positive.hpp>

using namespace kokomo;

namespace {

template <class Exec>
using Everything = Layer<
    Router<LinearScorer, TopK<>>, NormalizedSigmoidGate,
    Balancers<SelectionBias, SwitchLoss<OwnTopK, NormalizedMass<SigmoidScore>>, SwitchLoss<Chosen>, EntropyLoss,
              CoverageThenConfidence, OrthogonalityLoss, ExpertRouterCoupling, SwitchLoss<SecondChoice, RunnerUpMass>>,
    SwiGluExperts, float, Exec>;
template <class Exec>
using Noisy = Layer<Router<NoisyScorer, TopK<>>, SelectedSoftmaxGate, Balancers<ImportanceLoss<>, LoadLoss>,
                    SwiGluExperts, float, Exec>;
template <class Exec>
using ReMoE = Layer<Router<LinearScorer, Positive>, ReluGate, AdaptiveL1, SwiGluExperts, float, Exec>;
template <class Exec>
using Pooled = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, Balancers<PooledLoss<Exec>, BudgetLoss<Exec>>,
                     SwiGluExperts, float, Exec>;

} // namespace

int balancers() {
  int failed = 0;
  failed += !Run<Everything>::agrees("Everything", [](auto& p) {
    p.router.selector.k = 2;
    p.experts.intermediate = 16;
    p.balancer.parts = {SelectionBias{.update = BiasUpdate::clipped, .schedule = BiasSchedule::inverse},
                        deepseek_v3_sequence_loss(0.1f, 2, 10),
                        deepseek_communication_loss(0.1f, 4, 2),
                        EntropyLoss{.coefficient = 0.1f},
                        CoverageThenConfidence{},
                        OrthogonalityLoss{},
                        ExpertRouterCoupling{},
                        mesh_second_place_loss(0.1f)};
  });
  failed += !Run<Noisy>::agrees("Noisy", [](auto& p) {
    p.router.selector.k = 2;
    p.experts.intermediate = 16;
  });
  failed += !Run<ReMoE>::agrees("ReMoE", [](auto& p) {
    p.router.selector.at_most = 8;
    p.balancer.initial = 0.1f;
    p.experts.intermediate = 16;
  });
  failed += !Run<Pooled>::agrees("Pooled", [](auto& p) {
    p.router.selector.k = 2;
    p.experts.intermediate = 16;
    auto& [pooled, budget] = p.balancer.parts;
    pooled.pool = decltype(pooled.pool)({}, 8);
    budget.budget = decltype(budget.budget)({}, 8);
  });
  return failed;
}
