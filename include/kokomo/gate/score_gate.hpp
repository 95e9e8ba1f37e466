// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_GATE_SCORE_GATE_HPP
#define KOKOMO_GATE_SCORE_GATE_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {

/// What the scores s of the chosen experts S of a token are divided by. Published models differ, down to the epsilon.
enum class Normalize {
  none,
  sum,              ///< sum_S s
  sum_plus_epsilon, ///< sum_S s + epsilon
  sum_clamp_min,    ///< max(sum_S s, epsilon)
  p_norm,           ///< (sum_S |s|^p)^(1/p)
  count             ///< how many experts take the token: the mean of what they return, weighted by s
};

/// Whether experts that capacity dropped still count in the normalisation.
enum class Drops {
  keep_share, ///< normalise over the chosen: what was dropped loses its share
  renormalize ///< normalise over the executed: what is left shares all
};

namespace detail {

/// The settings of a ScoreGate, in the compute type.
template <class C> struct GateSettings {
  Normalize normalize;
  Drops drops;
  C epsilon, p, scale;
  bool round_weights;
  index_t weightless;
};

/// The divisor of one token's scores and its derivative with respect to each of them.
template <class Score, class T, class Exec> struct GateToken {
  using C = compute_t<T>;
  Assignment<T, Exec> const& a;
  GateSettings<C> const& settings;
  C const* z;
  decltype(Score::row(static_cast<C const*>(nullptr), 0)) shared;
  C sum = 0;
  C divisor = 1;

  KOKKOS_FUNCTION GateToken(Routing<T, Exec> const& routing, Assignment<T, Exec> const& assignment,
                            GateSettings<C> const& s, offset_t token)
      : a(assignment), settings(s), z(routing.row(token)), shared(Score::row(z, routing.sizes.experts)) {
    if (settings.normalize == Normalize::none) return;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      if (counts(i)) {
        C const s_i = score(i);
        if (settings.normalize == Normalize::p_norm)
          sum += Kokkos::pow(Kokkos::abs(s_i), settings.p);
        else
          sum += settings.normalize == Normalize::count ? C(1) : s_i;
      }
    switch (settings.normalize) {
    case Normalize::sum_plus_epsilon:
      divisor = sum + settings.epsilon;
      break;
    case Normalize::sum_clamp_min:
      divisor = Kokkos::max(sum, settings.epsilon);
      break;
    case Normalize::p_norm:
      divisor = Kokkos::pow(sum, C(1) / settings.p);
      break;
    default:
      divisor = sum;
    }
  }
  KOKKOS_FUNCTION bool counts(offset_t i) const {
    return a.expert[i] != none && a.expert[i] < a.experts - settings.weightless &&
           (settings.drops == Drops::keep_share || a.row[i] != none);
  }
  KOKKOS_FUNCTION C score(offset_t i) const { return Score::value(shared, z[a.expert[i]]); }
  /// A token all of whose scores vanish (no finite logit) gets no weight, rather than 0 / 0.
  KOKKOS_FUNCTION C divided(C value) const { return divisor != C(0) ? value / divisor : C(0); }
  /// d divisor / d s_i
  KOKKOS_FUNCTION C divisor_slope(C s_i) const {
    switch (settings.normalize) {
    case Normalize::none:
    case Normalize::count:
      return 0;
    case Normalize::sum_clamp_min:
      return sum > settings.epsilon ? C(1) : C(0);
    case Normalize::p_norm:
      return sum > C(0) ? (s_i < C(0) ? C(-1) : C(1)) * Kokkos::pow(Kokkos::abs(s_i), settings.p - C(1)) * divisor / sum
                        : C(0);
    default:
      return 1;
    }
  }
};

template <class Score, class T, class Exec> struct WeighByScore {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  GateSettings<C> settings;
  C const* expert_scale;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    GateToken<Score, T, Exec> const gate(routing, a, settings, token);
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      C weight = 0;
      if (gate.counts(i)) {
        weight = gate.divided(gate.score(i)) * settings.scale;
        if (expert_scale != nullptr) weight *= expert_scale[a.expert[i]];
      }
      a.weight[i] = settings.round_weights ? rounded_to<T>(weight) : weight;
    }
  }
};

template <class Score, class T, class Exec> struct ScoreGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  GateSettings<C> settings;
  C const* expert_scale;
  Vector<C const, Exec> d_weight;
  Matrix<C, Exec> d_logits;
  Vector<C, Exec> d_scale; // [entries] share of each entry in the gradient of its expert's scale

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    GateToken<Score, T, Exec> const gate(routing, a, settings, token);
    offset_t const begin = a.token_offsets[token], end = a.token_offsets[token + 1];
    C along = 0; // sum_i dL/d(s_i / divisor) * s_i / divisor
    for (offset_t i = begin; i < end; ++i) {
      if (!gate.counts(i)) continue;
      C const share = gate.divided(gate.score(i));
      along += share_gradient(i) * share;
      if (expert_scale != nullptr) d_scale[i] = d_weight[i] * settings.scale * share;
    }

    for (index_t e = 0; e < routing.sizes.columns; ++e) d_logits(token, e) = 0;
    C coupled = 0; // sum_i ds_i s_i
    for (offset_t i = begin; i < end; ++i) {
      if (!gate.counts(i)) continue;
      C const s = gate.score(i);
      C const ds = gate.divided(share_gradient(i) - along * gate.divisor_slope(s));
      index_t const e = a.expert[i];
      if constexpr (Score::coupled) {
        coupled += ds * s;
        d_logits(token, e) += ds * s;
      } else {
        d_logits(token, e) += ds * Score::slope(gate.z[e], s);
      }
    }
    if constexpr (Score::coupled)
      for (index_t e = 0; e < routing.sizes.experts; ++e)
        d_logits(token, e) -= Score::value(gate.shared, gate.z[e]) * coupled;
  }
  KOKKOS_FUNCTION C share_gradient(offset_t i) const {
    C const g = d_weight[i] * settings.scale;
    return expert_scale != nullptr ? g * expert_scale[a.expert[i]] : g;
  }
};

/// Gradient of the scale of one expert: over its rows, in order.
template <class T, class Exec> struct ExpertScaleGradient {
  using C = compute_t<T>;
  Assignment<T, Exec> a;
  Vector<C const, Exec> d_scale;
  C* grad;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t e) const {
    C sum = 0;
    for (offset_t row = a.expert_offsets[e]; row < a.expert_offsets[e + 1]; ++row) sum += d_scale[a.entry_of_row[row]];
    grad[e] = write == Write::add ? grad[e] + sum : sum;
  }
};

} // namespace detail

/// Weight of a chosen expert: its score, normalised over the chosen or not, scaled,
///
///     w_e = scale * expert_scale_e * s_e / N(s_S),
///
/// with s a score function of the logits alone: selection biases never enter. The gradient passes through score,
/// normalisation and scales, and stays on the chosen path.
/// Source: the gates of Mixtral, Qwen, DeepSeek, ... as transformers has them (docs/policies/gate/score_gate.md).
/// \throws kokomo::Error 106 for a negative epsilon or weightless, or a p below 1
template <class ScoreT, Normalize DefaultNormalize = Normalize::none> struct ScoreGate {
  using Score = ScoreT;

  Normalize normalize = DefaultNormalize;
  float epsilon = DefaultNormalize == Normalize::none ? 0.0f : 1e-20f; ///< >= 0
  float p = 1;                                                         ///< >= 1, for Normalize::p_norm
  float scale = 1;                                                     ///< routed scaling factor
  bool expert_scales = false;                                          ///< a learnable factor an expert
  bool round_weights = false;                                          ///< weights rounded to the storage type
  Drops drops = Drops::keep_share;
  index_t weightless = 0; ///< >= 0: the last so many experts weigh nothing and have no share in the normalisation

  template <class T, class Exec> struct Parameters {
    OwnedVector<compute_t<T>, Exec> expert_scale; ///< [experts], if expert_scales

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, ScoreGate const& gate, Sizes const& sizes) {
      if (gate.expert_scales) allocate(expert_scale, "kokomo::ScoreGate::expert_scale", sizes.experts);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      if (expert_scale.extent(0) > 0) f(Name{prefix, "expert_scale"}, expert_scale);
    }
  };

  template <class T, class Exec> struct BackwardScratch {
    Vector<compute_t<T>, Exec> d_scale; // [entries], if expert_scales

    BackwardScratch(detail::Arena& arena, ScoreGate const& gate, Sizes const& sizes)
        : d_scale(arena.vector<compute_t<T>, Exec>(gate.expert_scales ? sizes.entries : 0)) {}
  };

  void check(Sizes const&) const {
    detail::require(epsilon >= 0, 106, "ScoreGate epsilon = ", epsilon, ", expected >= 0");
    detail::require(p >= 1, 106, "ScoreGate p = ", p, ", expected >= 1");
    detail::require(weightless >= 0, 106, "ScoreGate weightless = ", weightless, ", expected >= 0");
  }

  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Routing<T, Exec> const& routing, Nothing const&,
               Assignment<T, Exec> const& a) const {
    detail::for_each(exec, "kokomo::ScoreGate::forward", a.tokens,
                     detail::WeighByScore<Score, T, Exec>{routing, a, settings<T>(), parameters.expert_scale.data()});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Routing<T, Exec> const& routing,
                Assignment<T, Exec> const& a, Vector<compute_t<T> const, Exec> const& d_weight,
                Matrix<compute_t<T>, Exec> const& d_logits, Parameters<T, Exec> const& grads, Write write,
                BackwardScratch<T, Exec> const& scratch) const {
    auto const* scales = parameters.expert_scale.data();
    detail::for_each(
        exec, "kokomo::ScoreGate::backward", a.tokens,
        detail::ScoreGradient<Score, T, Exec>{routing, a, settings<T>(), scales, d_weight, d_logits, scratch.d_scale});
    if (scales != nullptr)
      detail::for_each(exec, "kokomo::ScoreGate::backward_scale", a.experts,
                       detail::ExpertScaleGradient<T, Exec>{a, scratch.d_scale, grads.expert_scale.data(), write});
  }

private:
  template <class T> detail::GateSettings<compute_t<T>> settings() const {
    using C = compute_t<T>;
    return {normalize, drops, C(epsilon), C(p), C(scale), round_weights, weightless};
  }
};

/// Softmax over all experts, not renormalised (Switch, DeepSeekMoE, OLMoE), or with `.normalize` as the model says.
using SoftmaxGate = ScoreGate<SoftmaxScore>;
/// Sigmoid of each chosen logit.
using SigmoidGate = ScoreGate<SigmoidScore>;
/// s / (sum of the chosen + 1e-20), s = sigmoid(z): DeepSeek-V3's gate.
using NormalizedSigmoidGate = ScoreGate<SigmoidScore, Normalize::sum_plus_epsilon>;
/// s / (sum of the chosen + 1e-20), s = softmax(z).
using NormalizedSoftmaxGate = ScoreGate<SoftmaxScore, Normalize::sum_plus_epsilon>;
/// s / (sum of the chosen + 1e-20), s = sqrt(softplus(z)): DeepSeek-V4's gate.
using NormalizedSqrtSoftplusGate = ScoreGate<SqrtSoftplusScore, Normalize::sum_plus_epsilon>;

/// exp(z): of a scorer whose logits are logarithms of probabilities over all experts, the joint probability (OmniMoE's
/// code). Its renormalised form is SelectedSoftmaxGate.
using JointProbabilityGate = ScoreGate<ExponentialScore>;
/// max(z, 0), unbounded: ReMoE's gate.
using ReluGate = ScoreGate<ReluScore>;

} // namespace kokomo::inline v0

#endif
