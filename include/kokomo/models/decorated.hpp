// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_DECORATED_HPP
#define KOKOMO_MODELS_DECORATED_HPP

#include <kokomo/adjust/additive_logits.hpp>
#include <kokomo/adjust/expert_mask_schedule.hpp>
#include <kokomo/adjust/pheromone.hpp>
#include <kokomo/adjust/steering.hpp>
#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/z_loss.hpp>
#include <kokomo/models/description.hpp>
#include <kokomo/router/input_jitter.hpp>
#include <kokomo/router/replay.hpp>
#include <kokomo/router/self_healing.hpp>

namespace kokomo::inline v0 {

namespace detail {

/// A layer with a policy around its scorer or selector, or one more slot.
template <class L> struct Decorated;
template <class Scorer, class Selector, class Gate, class Balancer, class Experts, class T, class Exec, class... Slots>
struct Decorated<Layer<Router<Scorer, Selector>, Gate, Balancer, Experts, T, Exec, Slots...>> {
  template <template <class> class Around>
  using Scoring = Layer<Router<Around<Scorer>, Selector>, Gate, Balancer, Experts, T, Exec, Slots...>;
  template <template <class> class Around>
  using Selecting = Layer<Router<Scorer, Around<Selector>>, Gate, Balancer, Experts, T, Exec, Slots...>;

  template <class Adjust> struct Adjusting {
    static_assert(std::is_same_v<slot_t<slots::adjust, NoAdjustment, Slots...>, NoAdjustment>,
                  "kokomo::models: this block adjusts its logits already; write the layer with Adjustments<..., ...>");
    using type = Layer<Router<Scorer, Selector>, Gate, Balancer, Experts, T, Exec, Slots..., Adjust>;
  };
};

} // namespace detail

/// Published decorators, each around any block P, and the blocks that are one of them: docs/families/decorated.md.
namespace models {

/// A block whose logits are adjusted before selection.
template <class P, class Adjust>
using WithAdjustment = typename kokomo::detail::Decorated<P>::template Adjusting<Adjust>::type;

/// Router steering (multilingual routing): some experts pushed up or down in every token.
template <class P> using Steered = WithAdjustment<P, Steering>;
/// Rewiring Experts on the Fly: a vector added to the logits, adapted at test time.
template <class P> using Rewired = WithAdjustment<P, AdditiveLogits>;
/// AMRO-S: logits plus the logarithm of a trail that each class of requests has left.
template <class P> using WithPheromone = WithAdjustment<P, Pheromone>;

/// Self-Healing: failed experts are routed around.
template <class P> using Healed = typename kokomo::detail::Decorated<P>::template Selecting<SelfHealing>;
/// Choices recorded, and given back later.
template <class P> using Replayed = typename kokomo::detail::Decorated<P>::template Selecting<Replay>;
/// A router whose input is multiplied by numbers near one in training.
template <class P> using Jittered = typename kokomo::detail::Decorated<P>::template Scoring<InputJitter>;

/// Switch in training: one expert a token, jitter, a capacity in token order, the balancing loss.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = AnyPlainExperts>
using SwitchTraining =
    Layer<Router<InputJitter<LinearScorer>, TopK<1>>, SoftmaxGate, LoadBalancingLoss, Experts, T, Exec, Capacity>;

/// ST-MoE: two experts a token with a capacity, the balancing loss and the z-loss. The dense network after it is the model's.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = AnyPlainExperts>
using StMoe =
    Layer<Router<LinearScorer, Top2>, SoftmaxGate, Balancers<LoadBalancingLoss, ZLoss>, Experts, T, Exec, Capacity>;

/// SparseMixer in training (Phi-3.5-MoE): jitter of the router's input beside the draws, and the z-loss where one is wanted.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = AnyGluExperts>
using SparseMixerTraining =
    Layer<Router<InputJitter<LinearScorer>, SparseMixer>, SparseMixerGate, ZLoss, Experts, T, Exec>;

/// ReXMoE: a router over the experts of several layers, which come into sight step by step. The experts' Views may be shared
/// by the layers of a group.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using ReXMoe = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, Experts, T, Exec, ExpertMaskSchedule>;

/// Switch's settings as tensorflow/mesh has them: the loss of the one pick, coefficient 1e-2, and C = max(4, int(factor n / E)),
/// with another factor in inference (0: the same).
template <class P>
constexpr void configure_switch_training(P& policies, double factor, offset_t tokens_per_sequence,
                                         double inference_factor = 2) {
  policies.balancer.top_k = 1;
  policies.balancer.tokens_per_sequence = tokens_per_sequence;
  policies.capacity.factor = factor;
  policies.capacity.inference_factor = inference_factor;
  policies.capacity.rounding = CapacityRounding::down;
  policies.capacity.minimum = 4;
  policies.capacity.tokens_per_sequence = tokens_per_sequence;
}

} // namespace models
} // namespace kokomo::inline v0

#endif
