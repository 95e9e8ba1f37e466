// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_PUBLISHED_LOSSES_HPP
#define KOKOMO_BALANCER_PUBLISHED_LOSSES_HPP

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/pooled_loss.hpp>
#include <kokomo/balancer/switch_loss.hpp>

/// Balancing losses under the names of those who published them. They share a formula and not a scale: a coefficient of
/// one is not a coefficient of another. Each says its value at perfect balance for coefficient 1.
/// Sources and traps: docs/policies/balancer/published_losses.md.

namespace kokomo::inline v0 {

/// mesh-tensorflow's Switch and top-2, praxis, V-MoE's gshard loss: first choices only, in groups of tokens. Value 1.
constexpr SwitchLoss<> mesh_loss(float coefficient, offset_t tokens_per_group = 0) {
  return {.coefficient = coefficient, .top_k = 1, .tokens_per_sequence = tokens_per_group};
}

/// mesh-tensorflow's second-place loss: shares of second choices, P of the softmax without the first one. Value 1.
constexpr SwitchLoss<SecondChoice, RunnerUpMass> mesh_second_place_loss(float coefficient,
                                                                        offset_t tokens_per_group = 0) {
  return {.coefficient = coefficient, .top_k = 1, .tokens_per_sequence = tokens_per_group};
}
/// Its top-2 with `moe_use_second_place_loss`: half of that beside the loss of first choices. Value 3 / 2.
constexpr Balancers<SwitchLoss<>, SwitchLoss<SecondChoice, RunnerUpMass>>
mesh_top_2_loss(float coefficient, offset_t tokens_per_group = 0) {
  return {{mesh_loss(coefficient, tokens_per_group), mesh_second_place_loss(0.5f * coefficient, tokens_per_group)}};
}

/// GShard, Algorithm 1 as the paper prints it: (1/E) sum_e (c_e / S) m_e. Value 1 / E^2.
constexpr SwitchLoss<> gshard_paper_loss(float coefficient, index_t experts, offset_t tokens_per_group = 0) {
  auto const e = static_cast<float>(experts);
  return {.coefficient = coefficient / (e * e), .top_k = 1, .tokens_per_sequence = tokens_per_group};
}

/// flaxformer, tokens choose: the union of k picks, E^2 times the mean over experts. Value k.
constexpr SwitchLoss<> flaxformer_loss(float coefficient, int k, offset_t tokens_per_group = 0) {
  return {.coefficient = coefficient, .top_k = k, .tokens_per_sequence = tokens_per_group};
}

/// transformers' `load_balancing_loss_func` of one layer. Value k. Over all layers: PooledLoss.
constexpr SwitchLoss<> transformers_loss(float coefficient, int k) {
  return {.coefficient = coefficient, .top_k = k};
}

/// Megatron-LM's aux_loss: picks are the top k of the scores without bias, not those that the layer chose; sigmoid
/// scores are divided by their sum. Value 1. With a Reduce: its global form.
template <class Score = SoftmaxScore, class Reduce = LocalCounts>
constexpr auto megatron_loss(float coefficient, int k, Reduce const& reduce = {}) {
  return SwitchLoss<OwnTopK, NormalizedMass<Score>, Reduce>{
      .coefficient = coefficient, .top_k = k, .divide_by_k = true, .reduce = reduce};
}

/// Qwen's global-batch loss: f over all processes, P of this one. Value 1.
template <class Reduce> constexpr auto global_batch_loss(float coefficient, int k, Reduce const& reduce) {
  return megatron_loss<SoftmaxScore, Reduce>(coefficient, k, reduce);
}

/// DeepSeekMoE's expert-level loss: E / (k T) picks, what the layer chose. Value 1.
constexpr SwitchLoss<Chosen> deepseek_expert_loss(float coefficient, int k) {
  return {.coefficient = coefficient, .top_k = k, .divide_by_k = true};
}

/// DeepSeekMoE's device-level loss: mean f of a device's experts times the sum of their P. Value 1.
constexpr SwitchLoss<Chosen> deepseek_device_loss(float coefficient, int k, index_t devices) {
  return {.coefficient = coefficient, .top_k = k, .divide_by_k = true, .groups = {.count = devices}};
}

/// DeepSeek-V2's communication loss: f = D / (M T) times the tokens sent to a device, however many of its experts they
/// visit; M is the most devices of a token. Value 1 if every token visits M devices.
constexpr SwitchLoss<Chosen> deepseek_communication_loss(float coefficient, index_t devices, int most_devices) {
  return {
      .coefficient = coefficient, .top_k = 1, .groups = {.count = devices, .once = true, .picks = float(most_devices)}};
}

/// DeepSeek-V3's sequence-wise loss: P = sigmoid over its sum, picks are the top k without bias or groups. Value 1.
constexpr SwitchLoss<OwnTopK, NormalizedMass<SigmoidScore>> deepseek_v3_sequence_loss(float coefficient, int k,
                                                                                      offset_t tokens_per_sequence) {
  return {.coefficient = coefficient, .top_k = k, .divide_by_k = true, .tokens_per_sequence = tokens_per_sequence};
}

/// The loss of top-p routing (Huang et al.): all that was chosen counts, not divided by its number. Value: the mean
/// number of experts of a token.
constexpr SwitchLoss<Chosen> top_p_loss(float coefficient) {
  return {.coefficient = coefficient, .top_k = 1};
}

/// DeepSeek-V4's, as it is reported: DeepSeek-V3's of its scores, sqrt(softplus(z)). Value 1.
constexpr SwitchLoss<OwnTopK, NormalizedMass<SqrtSoftplusScore>>
deepseek_v4_sequence_loss(float coefficient, int k, offset_t tokens_per_sequence) {
  return {.coefficient = coefficient, .top_k = k, .divide_by_k = true, .tokens_per_sequence = tokens_per_sequence};
}

/// MoE++'s heterogeneous loss (reconstructed): sum of eta_e f_e P_e, eta 1 for experts with weights and tau for those
/// without, so that the latter get 1 / tau as many tokens. With N of the former, Z of the latter and k picks its least value
/// is k tau / (tau N + Z).
constexpr SwitchLoss<Chosen> moe_plus_plus_loss(float coefficient, float tau, index_t experts) {
  return {.coefficient = coefficient / float(experts), .top_k = 1, .groups = {.unweighted = tau}};
}

/// LongCat's device loss: D groups of experts with weights, f_j = D / (real T) hits, and all experts without weights as
/// one more, f = hits / (zero T). `once`: a hit is a token (the formula's indicator); else every pick is one. Counted by
/// pick, with the picks as budgeted, the value is 1; below with the indicator.
constexpr SwitchLoss<Chosen> longcat_device_loss(float coefficient, index_t devices, float real_picks, float zero_picks,
                                                 bool once = true) {
  return {.coefficient = coefficient,
          .top_k = 1,
          .groups = {.count = devices, .once = once, .picks = real_picks, .zero_picks = zero_picks}};
}

/// The product term of LoRA-Mixer's router loss, a sum_e mean p_e share_e. Value 1 / E.
constexpr SwitchLoss<Chosen> lora_mixer_loss(float coefficient, int k, index_t experts) {
  return {.coefficient = coefficient / float(experts), .top_k = k, .divide_by_k = true};
}

} // namespace kokomo::inline v0

#endif
