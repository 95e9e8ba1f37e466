// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_MOE_PLUS_PLUS_HPP
#define KOKOMO_MODELS_MOE_PLUS_PLUS_HPP

#include <kokomo/balancer/published_losses.hpp>
#include <kokomo/capacity/capacity.hpp>
#include <kokomo/experts/with_constant.hpp>
#include <kokomo/experts/with_identity.hpp>
#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/gating_residual.hpp>
#include <kokomo/router/hidden_layer_scorer.hpp>

namespace kokomo::inline v0::models {

/// MoE++: feed-forward experts, then constant ones, one that copies and one that returns nothing; logits that add those of
/// the layer below; weights of the softmax over all experts, normalised over the chosen but the zero expert, which weighs
/// nothing (`gate.weightless` = 1). Source: SkyworkAI/MoE-plus-plus. docs/families/moe_plus_plus.md
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using MoePlusPlus =
    Layer<Router<GatingResidual<HiddenLayerScorer<Tanh>>, TopK<2>>, ScoreGate<SoftmaxScore, Normalize::sum>, NoBalancer,
          WithIdentity<WithConstant<Experts>>, T, Exec>;

/// The same with the loss and the capacity of its training, which tell experts with weights from those without
/// (reconstructed: they are not in the released code).
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using MoePlusPlusTraining =
    Layer<Router<GatingResidual<HiddenLayerScorer<Tanh>>, TopK<2>>, ScoreGate<SoftmaxScore, Normalize::sum>,
          SwitchLoss<Chosen>, WithIdentity<WithConstant<Experts>>, T, Exec, Capacity>;

/// Its other mode (`moe_use_mixtral_gating`): the softmax over the two chosen, the zero expert's share included.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using MoePlusPlusSelected = Layer<Router<GatingResidual<HiddenLayerScorer<Tanh>>, TopK<2, RankByLogits>>,
                                  SelectedSoftmaxGate, NoBalancer, WithIdentity<WithConstant<Experts>>, T, Exec>;

/// The settings that both have: `constants` constant experts, one copying, one zero; `hidden` units of the router, eight
/// times all experts in the source; `residual` false in the lowest layer.
template <class P>
constexpr void configure_moe_plus_plus(P& policies, index_t constants, offset_t hidden, bool residual) {
  policies.router.scorer.inner.hidden = hidden;
  policies.router.scorer.residual = residual;
  policies.experts.inner.count = constants;
  policies.experts.identity = policies.experts.zero = 1;
  if constexpr (requires { policies.gate.weightless; }) policies.gate.weightless = 1;
}

/// What MoePlusPlusTraining has beside these: with tau, experts without weights get 1 / tau as many places, and are pulled to
/// 1 / tau as many tokens. `experts` are all of them, `factor` that of the capacity.
template <class P>
constexpr void configure_moe_plus_plus_training(P& policies, float tau, float coefficient, double factor,
                                                index_t experts) {
  policies.balancer = moe_plus_plus_loss(coefficient, tau, experts);
  policies.capacity.factor = factor;
  policies.capacity.unweighted = double(tau);
}

} // namespace kokomo::inline v0::models

#endif
