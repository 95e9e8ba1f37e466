// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_DESCRIBE_HPP
#define KOKOMO_TESTS_SUPPORT_DESCRIBE_HPP

#include <support/reference.hpp>

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/balancer/z_loss.hpp>
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
#include <kokomo/router/normalized_scorer.hpp>
#include <kokomo/router/top_2.hpp>
#include <kokomo/space/latent.hpp>
#include <kokomo/space/normalized_input.hpp>

#include <numbers>

/// The settings of a layer's policies in the reference's words. Formulas are written out here a second time.
namespace kokomo::test {

inline void describe(LinearScorer const& p, reference::Settings& s) {
  s.scorer.multiplier = p.multiplier;
  s.scorer.softcap = p.softcap;
}
inline void describe(NormalizedScorer const& p, reference::Settings& s, double width) {
  describe(p.linear, s);
  s.scorer.norm = {true, p.epsilon, 0, 1 / std::sqrt(width)};
}

inline reference::Score describe(SoftmaxScore) {
  return reference::Score::softmax;
}
inline reference::Score describe(SigmoidScore) {
  return reference::Score::sigmoid;
}
inline reference::Score describe(SqrtSoftplusScore) {
  return reference::Score::sqrt_softplus;
}
inline reference::Score describe(IdentityScore) {
  return reference::Score::identity;
}

template <int K, class Rank> void describe(TopK<K, Rank> const& p, reference::Settings& s) {
  s.selector.k = K == dynamic ? p.k : K;
  s.selector.by_logits = std::is_same_v<Rank, RankByLogits>;
}
template <class Rank> void describe(GroupLimitedTopK<Rank> const& p, reference::Settings& s) {
  s.selector.kind = reference::Selection::group_limited;
  s.selector.k = p.k;
  s.selector.groups = p.groups;
  s.selector.allowed_groups = p.allowed_groups;
  s.selector.by_logits = std::is_same_v<Rank, RankByLogits>;
  s.selector.top2_sum = p.group_score == GroupScore::top2_sum;
  s.selector.outside_is_zero = p.outside == OutsideRank::zero;
}
inline void describe(HashTable const& p, reference::Settings& s) {
  s.selector.kind = reference::Selection::table;
  s.selector.k = p.k;
}
inline void describe(Given const& p, reference::Settings& s) {
  s.selector.kind = reference::Selection::given;
  s.selector.k = p.k;
}
/// SecondExpert::all; what the other policies draw is not the reference's matter.
inline void describe(Top2 const&, reference::Settings& s) {
  s.selector.k = 2;
  s.selector.by_logits = true;
}
inline void describe(SparseMixer const&, reference::Settings& s) {
  s.selector.kind = reference::Selection::sparse_mixer;
  s.selector.k = 2;
}

template <class Score, Normalize N> void describe(ScoreGate<Score, N> const& p, reference::Settings& s) {
  using reference::Divisor;
  s.gate.divisor = p.normalize == Normalize::none               ? Divisor::one
                   : p.normalize == Normalize::sum              ? Divisor::sum
                   : p.normalize == Normalize::sum_plus_epsilon ? Divisor::sum_plus_epsilon
                   : p.normalize == Normalize::sum_clamp_min    ? Divisor::sum_at_least_epsilon
                                                                : Divisor::p_norm;
  s.gate.epsilon = p.epsilon;
  s.gate.p = p.p;
  s.gate.scale = p.scale;
  s.gate.renormalize = p.drops == Drops::renormalize;
}
inline void describe(SelectedSoftmaxGate const& p, reference::Settings& s) {
  s.gate.kind = reference::Weight::selected_softmax;
  s.gate.scale = p.scale;
}
inline void describe(JointSigmoidGate const& p, reference::Settings& s) {
  s.gate.kind = reference::Weight::joint;
  s.gate.scale = p.scale;
}
inline void describe(ConstantGate const& p, reference::Settings& s) {
  s.gate.kind = reference::Weight::constant;
  s.gate.scale = p.value;
}
inline void describe(SparseMixerGate const& p, reference::Settings& s) {
  s.gate.kind = reference::Weight::sparse_mixer;
  s.gate.epsilon = p.epsilon;
}
template <class Gate> void describe(OnInput<Gate> const& p, reference::Settings& s) {
  describe(static_cast<Gate const&>(p), s);
  s.gate.on_input = true;
}

inline void describe(NoBalancer const&, reference::Settings&) {}
inline void describe(SelectionBias const&, reference::Settings&) {}
inline void describe(LoadBalancingLoss const& p, reference::Settings& s) {
  s.losses.push_back({false, p.coefficient, p.top_k, p.divide_by_k, int(p.tokens_per_sequence)});
}
inline void describe(ZLoss const& p, reference::Settings& s) {
  s.losses.push_back({true, p.coefficient, 0, false, 0});
}
template <class... Parts> void describe(Balancers<Parts...> const& p, reference::Settings& s) {
  std::apply([&](auto const&... part) { (describe(part, s), ...); }, p.parts);
}

inline void describe(NoCapacity const&, reference::Settings&) {}
inline void describe(Capacity const& p, reference::Settings& s) {
  auto const order = p.order == CapacityOrder::position         ? reference::Order::position
                     : p.order == CapacityOrder::token_priority ? reference::Order::token_priority
                                                                : reference::Order::score;
  s.capacity = {true, order, p.factor, p.fraction, int(p.places), int(p.minimum), int(p.tokens_per_sequence)};
}

inline double describe(Silu, double x) {
  return x / (1 + std::exp(-x));
}
inline double describe(Gelu, double x) {
  return 0.5 * x * std::erfc(-x / std::numbers::sqrt2);
}
inline double describe(GeluTanh, double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * std::pow(x, 3))));
}
inline double describe(Relu, double x) {
  return std::max(x, 0.0);
}
inline double describe(SquaredRelu, double x) {
  return std::pow(std::max(x, 0.0), 2);
}
inline double describe(Identity, double x) {
  return x;
}
inline double describe(AnyActivation const& act, double x) {
  switch (act.kind) {
  case ActivationKind::silu:
    return describe(Silu{}, x);
  case ActivationKind::gelu:
    return describe(Gelu{}, x);
  case ActivationKind::gelu_tanh:
    return describe(GeluTanh{}, x);
  case ActivationKind::relu:
    return describe(Relu{}, x);
  case ActivationKind::squared_relu:
    return describe(SquaredRelu{}, x);
  case ActivationKind::identity:
    break;
  }
  return x;
}
template <class Act> double describe(Plain<Act> const& p, double, double up) {
  return describe(p.act, up);
}
template <class Act> double describe(Glu<Act> const& p, double gate, double up) {
  return describe(p.act, gate) * up;
}
inline double describe(ClampedSwiGlu const& p, double gate, double up) {
  up = std::min(std::max(up, -double(p.up_limit)), double(p.up_limit)) + p.up_offset;
  if (p.clamp == Clamp::after_activation)
    return std::min(gate * reference::sigmoid(p.alpha * gate), double(p.gate_max)) * up;
  gate = std::min(gate, double(p.gate_max));
  return gate * reference::sigmoid(p.alpha * gate) * up;
}
inline double describe(SoftcappedSwiGlu const& p, double gate, double up) {
  return p.gate_cap * std::tanh(gate / p.gate_cap) * reference::sigmoid(gate) * p.up_cap * std::tanh(up / p.up_cap);
}

template <class Activation> reference::FeedForward feed_forward(FeedForwardExperts<Activation> const& p) {
  auto const gate_up = p.gate_up == GateUp::concatenated  ? reference::GateUp::concatenated
                       : p.gate_up == GateUp::interleaved ? reference::GateUp::interleaved
                                                          : reference::GateUp::separate;
  return {int(p.intermediate),
          Activation::gated,
          p.bias,
          gate_up,
          p.up_order == WeightOrder::in_out,
          p.down_order == WeightOrder::in_out,
          [act = p.activation](double gate, double up) { return describe(act, gate, up); }};
}
template <class Activation> void describe(FeedForwardExperts<Activation> const& p, reference::Settings& s) {
  s.routed = feed_forward(p);
}
template <class Inner> void describe(RowNorm<Inner> const& p, reference::Settings& s) {
  describe(p.inner, s);
  s.row_norm = {true, p.epsilon, p.offset, 1};
}
template <class Inner> void describe(WithIdentity<Inner> const& p, reference::Settings& s) {
  describe(p.inner, s);
  s.identity = p.identity;
  s.zero = p.zero;
}
template <class Routed, class Share, class Shared>
void describe(WithShared<Routed, Share, Shared> const& p, reference::Settings& s) {
  describe(p.routed, s);
  s.shared = feed_forward(p.shared);
  s.shared_count = p.count;
  s.share = std::is_same_v<Share, SigmoidShare> ? reference::Share::sigmoid
            : std::is_same_v<Share, JointShare> ? reference::Share::joint
                                                : reference::Share::ungated;
}

inline void describe(SameSpace const&, reference::Settings&) {}
inline void describe(Latent const& p, reference::Settings& s) {
  s.space = {int(p.size), {p.norm, p.epsilon, p.norm_offset, 1}};
}
inline void describe(NormalizedInput const& p, reference::Settings& s) {
  s.space.norm = {true, p.epsilon, 0, 1};
}

inline void describe(WeightedSum const& p, reference::Settings& s) {
  s.combine.routed_scale = p.routed_scale;
  s.combine.scale = p.scale;
}
inline void describe(NormalizedSum const& p, reference::Settings& s) {
  s.combine.routed_scale = p.routed_scale;
  s.combine.norm = {true, p.epsilon, p.offset, 1};
}

/// All of a layer.
template <class L>
requires requires {
  typename L::Policies;
}
reference::Settings describe(L const& layer) {
  reference::Settings s;
  s.hidden = int(layer.shape().hidden);
  s.experts = int(layer.shape().experts);
  s.gate.score = describe(typename L::Gate::Score{});
  auto const& p = layer.policies();
  if constexpr (std::is_same_v<typename L::Scorer, NormalizedScorer>)
    describe(p.router.scorer, s, double(layer.sizes().router_width));
  else
    describe(p.router.scorer, s);
  describe(p.router.selector, s);
  describe(p.gate, s);
  describe(p.balancer, s);
  describe(p.capacity, s);
  describe(p.experts, s);
  describe(p.space, s);
  describe(p.combine, s);
  return s;
}

} // namespace kokomo::test

#endif
