// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_DESCRIPTION_HPP
#define KOKOMO_MODELS_DESCRIPTION_HPP

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/capacity/capacity.hpp>
#include <kokomo/combine/normalized_sum.hpp>
#include <kokomo/experts/row_norm.hpp>
#include <kokomo/experts/with_identity.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/joint.hpp>
#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/gate/sparse_mixer.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/given.hpp>
#include <kokomo/router/group_limited_top_k.hpp>
#include <kokomo/router/hash.hpp>
#include <kokomo/router/mlp_scorer.hpp>
#include <kokomo/router/normalized_scorer.hpp>
#include <kokomo/router/product_key_scorer.hpp>
#include <kokomo/router/top_2.hpp>
#include <kokomo/space/latent.hpp>
#include <kokomo/space/normalized_input.hpp>

#include <limits>

namespace kokomo::inline v0::models {

/// Every number and flag that defines a published MoE block, as its configuration gives them. Which policies a family
/// is made of is its type (models/mixtral.hpp, ...); a Description fills their settings, one overload of `configure` a
/// policy, so that no family is special-cased anywhere.
struct Description {
  // sizes
  offset_t hidden = 0;
  offset_t intermediate = 0; ///< of one routed expert
  offset_t experts = 0;      ///< routed experts with weights
  int top_k = 1;

  // router
  bool router_bias = false;
  bool round_logits = false; ///< the published router multiplies in the storage type
  bool round_scores = false; ///< and compares scores in it
  float logit_multiplier = 1;
  float logit_softcap = 0;
  float router_norm_epsilon = 1e-6f;
  offset_t router_state_size = 0;
  bool previous_router_states = false;
  bool tokens_interleaved = false; ///< product keys as published Doge reads them
  int groups = 1;
  int allowed_groups = 1;
  GroupScore group_score = GroupScore::top2_sum;
  OutsideRank outside = OutsideRank::minus_infinity;
  offset_t vocabulary = 0; ///< of a hash table
  SecondExpert second_expert = SecondExpert::all;
  float sparse_mixer_epsilon = 0.01f;

  // gate
  Normalize normalize = Normalize::none;
  float normalize_epsilon = 0;
  float normalize_p = 1;
  float scale = 1; ///< of the weights
  bool expert_scales = false;
  bool round_weights = false;
  Drops drops = Drops::keep_share;

  // capacity
  CapacityOrder capacity_order = CapacityOrder::position;
  offset_t capacity = 0;
  double capacity_fraction = 0;
  offset_t tokens_per_sequence = 0;

  // experts
  ActivationKind activation = ActivationKind::silu;
  ClampedSwiGlu clamped{};
  SoftcappedSwiGlu softcapped{};
  GateUp gate_up = GateUp::concatenated;
  WeightOrder up_order = WeightOrder::out_in;
  WeightOrder down_order = WeightOrder::out_in;
  bool expert_bias = false;
  index_t identity_experts = 0;
  index_t zero_experts = 0;
  float row_norm_epsilon = 1e-8f;
  float row_norm_offset = 0;

  // experts' space
  offset_t latent = 0;
  bool latent_norm = false;
  float space_norm_epsilon = 1e-6f;
  float space_norm_offset = 0;

  // shared experts
  index_t shared = 0; ///< experts, each of `shared_intermediate`
  offset_t shared_intermediate = 0;
  ActivationKind shared_activation = ActivationKind::silu;
  ClampedSwiGlu shared_clamped{};

  // combine
  float routed_scale = 1; ///< of the summed routed output
  float output_scale = 1; ///< of routed and shared part (1/2: average)
  bool output_bias = false;
  float output_norm_epsilon = 1e-6f;
  float output_norm_offset = 0;

  Shape shape(offset_t tokens) const { return {.tokens = tokens, .hidden = hidden, .experts = experts}; }
};

// One overload a policy. A policy of the user's own gets its settings from a Description by one more, found by
// argument-dependent lookup in the policy's namespace.

template <class P> void configure(P&, Description const&) {} // nothing to set

inline void configure(LinearScorer& p, Description const& d) {
  p.bias = d.router_bias;
  p.multiplier = d.logit_multiplier;
  p.softcap = d.logit_softcap;
  p.round_logits = d.round_logits;
}
inline void configure(NormalizedScorer& p, Description const& d) {
  configure(p.linear, d);
  p.epsilon = d.router_norm_epsilon;
}
inline void configure(MlpScorer& p, Description const& d) {
  p = {
      .state_size = d.router_state_size, .previous_states = d.previous_router_states, .epsilon = d.router_norm_epsilon};
}
inline void configure(ProductKeyScorer& p, Description const& d) {
  configure(p.linear, d);
  p.tokens_interleaved = d.tokens_interleaved;
}
template <int K, class Rank> void configure(TopK<K, Rank>& p, Description const& d) {
  p.k = K == dynamic ? d.top_k : K;
  p.round_scores = d.round_scores;
}
template <class Rank> void configure(GroupLimitedTopK<Rank>& p, Description const& d) {
  p = {.k = d.top_k,
       .groups = d.groups,
       .allowed_groups = d.allowed_groups,
       .group_score = d.group_score,
       .outside = d.outside};
}
/// Biases of a file stay where experts outside the groups rank 0.0: moving ones would choose these.
inline void configure(SelectionBias& p, Description const& d) {
  if (d.outside == OutsideRank::zero) p.rate = 0;
}
inline void configure(Top2& p, Description const& d) {
  p.second = d.second_expert;
  p.normalized_threshold = d.normalize != Normalize::none && d.drops == Drops::keep_share;
}
inline void configure(HashTable& p, Description const& d) {
  p = {.k = d.top_k, .vocabulary = d.vocabulary};
}
inline void configure(Given& p, Description const& d) {
  p.k = d.top_k;
}
inline void configure(SparseMixer& p, Description const& d) {
  p.epsilon = d.sparse_mixer_epsilon;
}

template <class Score, Normalize N> void configure(ScoreGate<Score, N>& p, Description const& d) {
  p.normalize = d.normalize;
  p.epsilon = d.normalize_epsilon;
  p.p = d.normalize_p;
  p.scale = d.scale;
  p.expert_scales = d.expert_scales;
  p.round_weights = d.round_weights;
  p.drops = d.drops;
}
template <class Gate> void configure(OnInput<Gate>& p, Description const& d) {
  configure(static_cast<Gate&>(p), d);
}
inline void configure(SelectedSoftmaxGate& p, Description const& d) {
  p = {.scale = d.scale, .round_weights = d.round_weights};
}
inline void configure(JointSigmoidGate& p, Description const& d) {
  p = {.scale = d.scale, .round_weights = d.round_weights};
}
inline void configure(SparseMixerGate& p, Description const& d) {
  p.epsilon = d.sparse_mixer_epsilon;
  p.round_weights = d.round_weights;
}

inline void configure(Capacity& p, Description const& d) {
  p.order = d.capacity_order;
  p.places = d.capacity;
  p.fraction = d.capacity_fraction;
  p.tokens_per_sequence = d.tokens_per_sequence;
}

namespace detail {
inline void set(Glu<AnyActivation>& a, ActivationKind kind, ClampedSwiGlu const&, SoftcappedSwiGlu const&) {
  a.act.kind = kind;
}
inline void set(Plain<AnyActivation>& a, ActivationKind kind, ClampedSwiGlu const&, SoftcappedSwiGlu const&) {
  a.act.kind = kind;
}
inline void set(ClampedSwiGlu& a, ActivationKind, ClampedSwiGlu const& clamped, SoftcappedSwiGlu const&) {
  a = clamped;
}
inline void set(SoftcappedSwiGlu& a, ActivationKind, ClampedSwiGlu const&, SoftcappedSwiGlu const& softcapped) {
  a = softcapped;
}
} // namespace detail

template <class Activation> void configure(FeedForwardExperts<Activation>& p, Description const& d) {
  p.intermediate = d.intermediate;
  p.bias = d.expert_bias;
  p.gate_up = d.gate_up;
  p.up_order = d.up_order;
  p.down_order = d.down_order;
  detail::set(p.activation, d.activation, d.clamped, d.softcapped);
}
template <class Inner> void configure(RowNorm<Inner>& p, Description const& d) {
  configure(p.inner, d);
  p.epsilon = d.row_norm_epsilon;
  p.offset = d.row_norm_offset;
}
template <class Inner> void configure(WithIdentity<Inner>& p, Description const& d) {
  configure(p.inner, d);
  p.identity = d.identity_experts;
  p.zero = d.zero_experts;
}
template <class Routed, class Share, class Activation>
void configure(WithShared<Routed, Share, FeedForwardExperts<Activation>>& p, Description const& d) {
  configure(p.routed, d);
  p.count = d.shared;
  p.shared.intermediate = d.shared_intermediate;
  detail::set(p.shared.activation, d.shared_activation, d.shared_clamped, d.softcapped);
}

inline void configure(NormalizedInput& p, Description const& d) {
  p.epsilon = d.space_norm_epsilon;
}
inline void configure(Latent& p, Description const& d) {
  p = {.size = d.latent, .norm = d.latent_norm, .epsilon = d.space_norm_epsilon, .norm_offset = d.space_norm_offset};
}
inline void configure(WeightedSum& p, Description const& d) {
  p = {.routed_scale = d.routed_scale, .scale = d.output_scale, .bias = d.output_bias};
}
inline void configure(NormalizedSum& p, Description const& d) {
  p = {.routed_scale = d.routed_scale, .epsilon = d.output_norm_epsilon, .offset = d.output_norm_offset};
}

/// The settings of all policies of a layer type.
template <class Layer> typename Layer::Policies policies_for(Description const& description) {
  typename Layer::Policies policies;
  configure(policies.router.scorer, description);
  configure(policies.router.selector, description);
  configure(policies.gate, description);
  configure(policies.balancer, description);
  configure(policies.experts, description);
  configure(policies.capacity, description);
  configure(policies.space, description);
  configure(policies.combine, description);
  return policies;
}

} // namespace kokomo::inline v0::models

#endif
