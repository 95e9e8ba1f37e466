// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_ADAPTIVE_ROUTING_HPP
#define KOKOMO_MODELS_ADAPTIVE_ROUTING_HPP

#include <kokomo/balancer/adaptive_l1.hpp>
#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/coverage_then_confidence.hpp>
#include <kokomo/balancer/entropy_loss.hpp>
#include <kokomo/balancer/importance_loss.hpp>
#include <kokomo/balancer/load_loss.hpp>
#include <kokomo/balancer/preference_loss.hpp>
#include <kokomo/balancer/preserve_loss.hpp>
#include <kokomo/balancer/published_losses.hpp>
#include <kokomo/balancer/switch_loss.hpp>
#include <kokomo/experts/autonomous.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/activation_norm_scorer.hpp>
#include <kokomo/router/escalate.hpp>
#include <kokomo/router/gumbel_top_k.hpp>
#include <kokomo/router/hash.hpp>
#include <kokomo/router/hidden_layer_scorer.hpp>
#include <kokomo/router/layer_norm_scorer.hpp>
#include <kokomo/router/no_scorer.hpp>
#include <kokomo/router/noisy_scorer.hpp>
#include <kokomo/router/percentile.hpp>
#include <kokomo/router/pooled_scorer.hpp>
#include <kokomo/router/positive.hpp>
#include <kokomo/router/sum_scorer.hpp>
#include <kokomo/router/table_scorer.hpp>
#include <kokomo/router/top_p.hpp>

/// Published routers, each over the experts of one's choice: docs/families/adaptive_routing.md.
namespace kokomo::inline v0::models {

/// Noisy top-k (Shazeer et al. 2017) with its importance and load losses.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = ReluExperts>
using NoisyTopK = Layer<Router<NoisyScorer, TopK<dynamic, RankByLogits>>, SelectedSoftmaxGate,
                        Balancers<ImportanceLoss<>, LoadLoss>, Experts, T, Exec>;

/// As many experts as reach a mass (Huang et al. 2024), with top_p_loss(1e-2) and the mean entropy of the router, which keep
/// that number down.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using TopPRouting =
    Layer<Router<LinearScorer, TopP>, SoftmaxGate, Balancers<SwitchLoss<Chosen>, EntropyLoss>, Experts, T, Exec>;

/// ReLU routing (ReMoE): every expert with a positive logit, held at a target by an L1 term that adapts.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using ReMoe = Layer<Router<LinearScorer, Positive>, ReluGate, AdaptiveL1, Experts, T, Exec>;

/// DynaMoE, partly reconstructed: experts above a percentile of the batch's logits, of a token's own or of each expert's.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts,
          PercentileScope Scope = PercentileScope::batch>
using DynaMoe = Layer<Router<LinearScorer, Percentile<Scope>>, SelectedSoftmaxGate, NoBalancer, Experts, T, Exec>;

/// Hash layers: a table says the expert of a token id.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = ReluExperts>
using HashLayer = Layer<Router<NoScorer, HashTable>, ConstantGate, NoBalancer, Experts, T, Exec>;

/// ReMix: experts sampled without replacement, all of one weight.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using ReMix = Layer<Router<LinearScorer, GumbelTopK>, ConstantGate, NoBalancer, Experts, T, Exec>;

/// Glider: a token's own score plus `scale` times its request's similarity to each expert, a row of a table.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using Glider = Layer<Router<SumScorer<LayerNormScorer, TableScorer>, TopK<dynamic, RankByLogits>>, SelectedSoftmaxGate,
                     NoBalancer, Experts, T, Exec>;

/// Routing by task (Polytropon, MHR with one head), with outputs mixed where the source mixes parameters.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using TaskRouting = Layer<Router<TableScorer, TopK<>>, NormalizedSigmoidGate, NoBalancer, Experts, T, Exec>;

/// Union of Experts, expert selection: the k best parts of a network for a sequence, added up without weights.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = FeedForwardExperts<Plain<Gelu>>>
using UnionOfExperts = Layer<Router<PooledScorer<>, TopK<>>, ConstantGate, NoBalancer, Experts, T, Exec>;

/// NanoVLA's rule for two experts: the heavy one where it is likely to win for the request.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using NanoVla = Layer<Router<PooledScorer<>, Escalate>, ConstantGate, NoBalancer, Experts, T, Exec>;

/// The same while its router is fitted to probabilities of winning, which the choice itself gives no gradient for.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using NanoVlaTraining = Layer<Router<PooledScorer<>, Escalate>, ConstantGate, PreferenceLoss<Exec>, Experts, T, Exec>;

/// Autonomy-of-Experts: no router; experts whose own first activations are largest, and which continue from those.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Autonomous = Layer<Router<ActivationNormScorer, TopK<>>, SoftmaxGate, NoBalancer, AutonomousExperts, T, Exec>;

/// MAGNET, reconstructed: a small network scores the interaction of user and item (`router_input`), coverage comes first and
/// confidence later. Its experts fuse modalities with fixed roles: of one's choice here.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = AnyPlainExperts>
using Magnet =
    Layer<Router<HiddenLayerScorer<>, TopK<>>, NormalizedSoftmaxGate, CoverageThenConfidence, Experts, T, Exec>;

/// Adapters: two linear maps of a rank, `intermediate`.
using AdapterExperts = FeedForwardExperts<Plain<Identity>>;

/// SAME's layer, as notes on the paper have it: adapters beside a frozen projection, which is the caller's, weighed by the
/// softmax over all. What makes it learn tasks one after the other stands in transform/: SpectralTransform, FreezeByScore.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Same = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, AdapterExperts, T, Exec>;

/// LoRA-Mixer, from notes on the paper: adapters beside a frozen projection, weighed by a softmax over all; the projection is
/// the caller's. `selector.k` all of them while the router learns, 3 afterwards.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using LoraMixer =
    Layer<Router<LinearScorer, TopK<>>, SoftmaxGate,
          Balancers<SwitchLoss<Chosen>, EntropyLoss, PreserveLoss<parameters_t<AdapterExperts, T, Exec>, Exec>>,
          AdapterExperts, T, Exec>;

/// Settings of LoraMixer's balancer: product * sum_e f_e P_e + entropy * mean entropy + preserve * squared distance from
/// `anchor`. The paper's text penalises entropy (entropy > 0), its printed formula rewards it (entropy < 0).
template <class T, class Exec>
Balancers<SwitchLoss<Chosen>, EntropyLoss, PreserveLoss<typename AdapterExperts::template Parameters<T, Exec>, Exec>>
lora_mixer_balance(float product, float entropy, int k, index_t experts, float preserve,
                   AdapterExperts::Parameters<T, Exec> const& anchor) {
  return {{SwitchLoss<Chosen>{.coefficient = product / float(experts), .top_k = k, .divide_by_k = true},
           EntropyLoss{.coefficient = entropy},
           PreserveLoss<typename AdapterExperts::template Parameters<T, Exec>, Exec>{.coefficient = preserve,
                                                                                     .anchor = anchor}}};
}

} // namespace kokomo::inline v0::models

#endif
