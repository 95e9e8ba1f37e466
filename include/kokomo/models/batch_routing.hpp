// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_BATCH_ROUTING_HPP
#define KOKOMO_MODELS_BATCH_ROUTING_HPP

#include <kokomo/adjust/selective_sinkhorn.hpp>
#include <kokomo/adjust/token_softmax.hpp>
#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/bip_balancing.hpp>
#include <kokomo/balancer/importance_loss.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/load_loss.hpp>
#include <kokomo/balancer/membership_loss.hpp>
#include <kokomo/balancer/token_coverage_loss.hpp>
#include <kokomo/models/description.hpp>
#include <kokomo/router/balanced_assignment.hpp>
#include <kokomo/router/expert_choice.hpp>
#include <kokomo/router/noisy_scorer.hpp>
#include <kokomo/router/predicted_scorer.hpp>
#include <kokomo/router/sinkhorn_top_k.hpp>

/// Published routings that decide over a whole batch: docs/families/batch_routing.md.
namespace kokomo::inline v0::models {

/// Experts take their best tokens; the weight is the score, not normalised.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Gate = SoftmaxGate>
using ExpertChoiceMoe = Layer<Router<LinearScorer, ExpertChoice>, Gate, NoBalancer, AnyGluExperts, T, Exec>;
/// The same with weights normalised over the experts that chose a token (Nucleus-Image).
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using ExpertChoiceNormalized = ExpertChoiceMoe<T, Exec, NormalizedSoftmaxGate>;

/// Nucleus-Image: the same beside a shared expert that every token visits. `router_input` holds a timestep's embedding beside
/// the normalised token that the block has not modulated yet, x the modulated one: the timestep is a feature of the router and
/// no scale. Gate = NormalizedSigmoidGate is the source's other option.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Gate = NormalizedSoftmaxGate>
using NucleusImage = Layer<Router<LinearScorer, ExpertChoice>, Gate, NoBalancer, WithShared<SwiGluExperts>, T, Exec>;

/// Its settings but for the experts' sizes: a capacity factor of nucleus_image_capacity_factor, or of an earlier stage.
template <class P> constexpr void configure_nucleus_image(P& policies, double factor, offset_t tokens_per_image) {
  policies.router.selector.factor = factor;
  policies.router.selector.tokens_per_sequence = tokens_per_image;
  policies.gate.epsilon = 1e-12f, policies.gate.scale = 2.5f;
  policies.experts.count = 1;
}

/// tensorflow/mesh's expert selection: the same by a softmax over tokens, whose shares are the weights, divided by how many
/// experts took the token; a loss that wants all tokens to be taken. `tokens_per_sequence` goes to all three policies.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = AnyPlainExperts>
using ExpertSelectionMesh = Layer<Router<LinearScorer, ExpertChoice>, ScoreGate<ExponentialScore, Normalize::count>,
                                  TokenCoverageLoss, Experts, T, Exec, TokenSoftmax>;

/// Megatron's Sinkhorn routing of one expert a token, weighed by the sigmoid of its logit.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using SinkhornMegatron = Layer<Router<LinearScorer, SinkhornTopK>, SigmoidGate, NoBalancer, AnyGluExperts, T, Exec>;
/// And of several, weighed by their softmax over all experts.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using SinkhornMegatronTopK = Layer<Router<LinearScorer, SinkhornTopK>, SoftmaxGate, NoBalancer, AnyGluExperts, T, Exec>;

/// Top-k of the softmax, and on few training steps of a transport plan.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using SelectiveSinkhornRouting =
    Layer<Router<LinearScorer, TopK<>>, NormalizedSoftmaxGate, NoBalancer, AnyGluExperts, T, Exec, SelectiveSinkhorn>;

/// The same with noise on the logits, of a fixed size (`scorer.scale = NoiseScale::fixed`).
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using SelectiveSinkhornNoisy =
    Layer<Router<NoisyScorer, TopK<>>, NormalizedSoftmaxGate, NoBalancer, AnyGluExperts, T, Exec, SelectiveSinkhorn>;

/// BASE: a balanced assignment in training, the best logit in inference, weighed by its sigmoid. Inside of a residual
/// connection this is a E(x) + (1 - a) x with E(x) = x + F(x).
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using BaseLayer = Layer<Router<LinearScorer, BalancedAssignment>, SigmoidGate, NoBalancer, AnyPlainExperts, T, Exec>;

/// GShard: top-2 with a second expert at random, first choices before second ones.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using GShard =
    Layer<Router<LinearScorer, Top2>, NormalizedSoftmaxGate, LoadBalancingLoss, AnyPlainExperts, T, Exec, Capacity>;

/// V-MoE: noisy logits, batch-prioritised capacity, importance and load losses.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using VMoe = Layer<Router<NoisyScorer, TopK<>>, SoftmaxGate, Balancers<ImportanceLoss<SoftmaxMass>, LoadLoss>,
                   AnyPlainExperts, T, Exec, Capacity>;

/// BIP-based balancing: top-k of scores minus duals, weights of the scores alone.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Gate = SoftmaxGate>
using BipMoe = Layer<Router<LinearScorer, TopK<>>, Gate, BipBalancing, AnyGluExperts, T, Exec>;

/// Mixture-of-Depths: the best tokens of each sequence go through the block, weighed by their raw logit; the residual
/// connection around the layer is what the others get. One expert, or several (staged MoDE).
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Balancer = MembershipLoss>
using MixtureOfDepths =
    Layer<Router<LinearScorer, ExpertChoice>, ScoreGate<IdentityScore>, Balancer, AnyGluExperts, T, Exec>;

/// Mixture-of-Depths whose choice a small network predicts in inference, from an input that its gradient does not reach:
/// `selector.inference = InferenceChoice::predicted`, `balancer.predicted = true`.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = AnyGluExperts>
using MixtureOfDepthsPredicted =
    Layer<Router<PredictedScorer<>, ExpertChoice>, ScoreGate<IdentityScore>, MembershipLoss, Experts, T, Exec>;

inline void configure(ExpertChoice& p, Description const& d) {
  p.places = d.capacity;
  p.tokens_per_sequence = d.tokens_per_sequence;
}
inline void configure(SinkhornTopK& p, Description const& d) {
  p.k = d.top_k;
}

} // namespace kokomo::inline v0::models

#endif
