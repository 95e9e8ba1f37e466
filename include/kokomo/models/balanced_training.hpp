// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_BALANCED_TRAINING_HPP
#define KOKOMO_MODELS_BALANCED_TRAINING_HPP

#include <kokomo/balancer/expert_router_coupling.hpp>
#include <kokomo/balancer/orthogonality_loss.hpp>
#include <kokomo/balancer/published_losses.hpp>
#include <kokomo/models/deepseek_v2.hpp>
#include <kokomo/models/deepseek_v3.hpp>
#include <kokomo/models/deepseek_v4.hpp>
#include <kokomo/models/longcat_flash.hpp>
#include <kokomo/models/mixtral.hpp>
#include <kokomo/models/selected_softmax.hpp>

namespace kokomo::inline v0 {

namespace detail {
template <class L, class Balancer> struct Rebalanced;
template <class Router, class Gate, class Old, class Experts, class T, class Exec, class... Slots, class Balancer>
struct Rebalanced<Layer<Router, Gate, Old, Experts, T, Exec, Slots...>, Balancer> {
  using type = Layer<Router, Gate, Balancer, Experts, T, Exec, Slots...>;
};
} // namespace detail

/// Published blocks with what keeps their load even in training, and balancers for any block:
/// docs/families/balanced_training.md.
namespace models {

/// A block with another balancer.
template <class P, class Balancer> using WithBalancer = typename kokomo::detail::Rebalanced<P, Balancer>::type;

/// A block whose router rows are kept orthonormal (SimBal), instead of its own balancer.
template <class P> using SimBal = WithBalancer<P, OrthogonalityLoss>;

/// A block each of whose router rows is held to its own expert (ERC), instead of its own balancer. Experts of
/// FeedForwardExperts, whose storage the loss must know: `.balancer.gate_up`, `.balancer.up_order`.
template <class P> using Coupled = WithBalancer<P, ExpertRouterCoupling>;

/// A block with the loss of a global batch (Qwen): set `.balancer = global_batch_loss(coefficient, k, reduce)`.
template <class P, class Reduce> using GlobalBatch = WithBalancer<P, SwitchLoss<OwnTopK, SoftmaxMass, Reduce>>;

/// DeepSeekMoE: fine-grained experts, shared ones, weights of a softmax over all; expert and device loss.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using DeepseekMoe = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, Balancers<SwitchLoss<Chosen>, SwitchLoss<Chosen>>,
                          WithShared<AnyGluExperts>, T, Exec>;

/// DeepSeek-V2 in training: devices are the groups; expert, device and communication loss.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using DeepseekV2Training =
    WithBalancer<DeepseekV2<T, Exec>, Balancers<SwitchLoss<Chosen>, SwitchLoss<Chosen>, SwitchLoss<Chosen>>>;

/// The same where a device serves the entries of largest affinity and drops the rest.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using DeepseekV2Dropping = Layer<Router<LinearScorer, GroupLimitedTopK<>>, SoftmaxGate,
                                 Balancers<SwitchLoss<Chosen>, SwitchLoss<Chosen>, SwitchLoss<Chosen>>,
                                 WithShared<AnyGluExperts>, T, Exec, Capacity>;

/// DeepSeek-V3 in training: loss-free biases and a small loss of each sequence.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using DeepseekV3Training =
    WithBalancer<DeepseekV3<T, Exec>, Balancers<SelectionBias, SwitchLoss<OwnTopK, NormalizedMass<SigmoidScore>>>>;

/// DeepSeek-V4 in training, as it is reported: V3's balancers with scores of sqrt(softplus(z)).
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using DeepseekV4Training =
    WithBalancer<DeepseekV4<T, Exec>, Balancers<SelectionBias, SwitchLoss<OwnTopK, NormalizedMass<SqrtSoftplusScore>>>>;

/// Mixtral and GPT-OSS with the loss that transformers trains them with: `.balancer = transformers_loss(coefficient, k)` a
/// layer, or PooledLoss over all of them.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using MixtralTraining = WithBalancer<Mixtral<T, Exec>, SwitchLoss<>>;
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using GptOssTraining = WithBalancer<GptOss<T, Exec>, SwitchLoss<>>;

/// LongCat-Flash in training: biases that hold the budget of experts with weights, and the device loss.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using LongcatFlashTraining = WithBalancer<LongcatFlash<T, Exec>, Balancers<SelectionBias, SwitchLoss<Chosen>>>;

/// Settings of DeepseekMoe's balancer, coefficients alpha_1 and alpha_2.
constexpr Balancers<SwitchLoss<Chosen>, SwitchLoss<Chosen>> deepseek_moe_balance(float expert, float device, int k,
                                                                                 index_t devices) {
  return {{deepseek_expert_loss(expert, k), deepseek_device_loss(device, k, devices)}};
}
/// Settings of DeepseekV2Training's.
constexpr Balancers<SwitchLoss<Chosen>, SwitchLoss<Chosen>, SwitchLoss<Chosen>>
deepseek_v2_balance(float expert, float device, float communication, int k, index_t devices, int most_devices) {
  return {{deepseek_expert_loss(expert, k), deepseek_device_loss(device, k, devices),
           deepseek_communication_loss(communication, devices, most_devices)}};
}
/// Settings of DeepseekV3Training's: V3's own are rate 1e-3 and coefficient 1e-4.
constexpr Balancers<SelectionBias, SwitchLoss<OwnTopK, NormalizedMass<SigmoidScore>>>
deepseek_v3_balance(int k, offset_t tokens_per_sequence, float rate = 1e-3f, float coefficient = 1e-4f) {
  return {{SelectionBias{.rate = rate}, deepseek_v3_sequence_loss(coefficient, k, tokens_per_sequence)}};
}
/// Capacity of DeepseekV2Dropping: `factor` times a device's balanced load.
constexpr Capacity deepseek_v2_capacity(index_t devices, double factor = 1) {
  return {.order = CapacityOrder::score, .factor = factor, .devices = devices};
}
/// Settings of DeepseekV4Training's, with V3's numbers.
constexpr Balancers<SelectionBias, SwitchLoss<OwnTopK, NormalizedMass<SqrtSoftplusScore>>>
deepseek_v4_balance(int k, offset_t tokens_per_sequence, float rate = 1e-3f, float coefficient = 1e-4f) {
  return {{SelectionBias{.rate = rate}, deepseek_v4_sequence_loss(coefficient, k, tokens_per_sequence)}};
}
/// Settings of LongcatFlashTraining's: `real_picks` of `k` picks shall be experts with weights.
constexpr Balancers<SelectionBias, SwitchLoss<Chosen>> longcat_balance(float rate, float coefficient, float real_picks,
                                                                       int k, index_t devices) {
  return {{longcat_bias(rate, real_picks, k),
           longcat_device_loss(coefficient, devices, real_picks, float(k) - real_picks)}};
}

} // namespace models
} // namespace kokomo::inline v0

#endif
