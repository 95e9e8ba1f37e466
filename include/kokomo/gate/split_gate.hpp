// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_GATE_SPLIT_GATE_HPP
#define KOKOMO_GATE_SPLIT_GATE_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/random.hpp>
#include <kokomo/detail/sequences.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {

/// How active an expert of a split is.
enum class SkillActivity {
  sigmoid, ///< sigmoid(z)
  relaxed, ///< in training sigmoid(z + logistic noise), a relaxed Bernoulli number of temperature one; else sigmoid(z)
  rounded  ///< 1 if sigmoid(z) > 1/2, else 0, with the gradient of sigmoid(z): straight through
};

/// What activities are divided by.
enum class SplitNormalize {
  sum,     ///< their sum over the split, plus epsilon
  average, ///< sqrt(K / S), K skills in each of S splits
  l2       ///< weights are z / max(|z|, epsilon), z of the split: no activity
};

namespace detail {

/// Activities of a token's experts, their slopes, and what divides them.
template <class C> struct SplitWeights {
  index_t skills, splits;
  SkillActivity activity;
  SplitNormalize normalize;
  bool shared, training;
  C epsilon, dropout;
  std::uint64_t seed, step;
  Sequences sequences; // whose tokens share their draws

  KOKKOS_FUNCTION bool always(index_t e) const { return shared && (e + 1) % skills == 0; }
  /// z, or z and noise.
  KOKKOS_FUNCTION C drawn(C z, offset_t token, index_t e) const {
    if (activity != SkillActivity::relaxed || !training) return z;
    double const u = uniform(seed, step, sequences.of(token), e);
    return z + C(Kokkos::log(u) - Kokkos::log(1 - u));
  }
  /// 0 for what is dropped out, else 1 / (1 - dropout).
  KOKKOS_FUNCTION C kept(offset_t token, index_t e) const {
    if (!(dropout > 0) || !training) return C(1);
    return uniform(seed, step, sequences.of(token), splits * skills + e) < double(dropout) ? C(0) : 1 / (1 - dropout);
  }
  KOKKOS_FUNCTION C active(C z, offset_t token, index_t e) const {
    if (normalize == SplitNormalize::l2) return z;
    if (always(e)) return C(1);
    C const s = SigmoidScore::of(drawn(z, token, e));
    return kept(token, e) * (activity == SkillActivity::rounded ? C(s > C(0.5) ? 1 : 0) : s);
  }
  KOKKOS_FUNCTION C slope(C z, offset_t token, index_t e) const {
    if (normalize == SplitNormalize::l2) return C(1);
    if (always(e)) return C(0);
    C const v = drawn(z, token, e);
    return kept(token, e) * SigmoidScore::slope(v, SigmoidScore::of(v));
  }
  /// Of the split that begins at expert `begin`; infinity where it has no activity at all: its weights are zero.
  KOKKOS_FUNCTION C divisor(C const* z, offset_t token, index_t begin) const {
    if (normalize == SplitNormalize::average) return Kokkos::sqrt(C(skills) / C(splits));
    C sum = 0;
    for (index_t e = begin; e < begin + skills; ++e) {
      C const a = active(z[e], token, e);
      sum += normalize == SplitNormalize::l2 ? a * a : a;
    }
    if (normalize == SplitNormalize::l2) return Kokkos::max(Kokkos::sqrt(sum), epsilon);
    return sum == 0 ? Kokkos::Experimental::infinity_v<C> : sum + epsilon;
  }
};

template <class T, class Exec> struct WeighInSplits {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  SplitWeights<C> split;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const* const z = routing.row(token);
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      index_t const e = a.expert[i];
      a.weight[i] =
          e != none ? split.active(z[e], token, e) / split.divisor(z, token, e / split.skills * split.skills) : C(0);
    }
  }
};

/// With N the divisor and w the weights: d_activity = (d - sum over the split of d w) / N for `sum`, d / N for `average`,
/// (d - w sum of d w) / N for `l2`.
template <class T, class Exec> struct WeighInSplitsBackward {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  SplitWeights<C> split;
  Vector<C const, Exec> d_weight;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const* const z = routing.row(token);
    C* const d = &d_logits(token, 0);
    for (index_t e = 0; e < routing.sizes.columns; ++e) d[e] = 0;
    if (a.token_offsets[token] == a.token_offsets[token + 1]) return;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      if (a.expert[i] != none) d[a.expert[i]] += d_weight[i];
    for (index_t begin = 0; begin < routing.sizes.experts; begin += split.skills) {
      C const total = split.divisor(z, token, begin);
      C along = 0;
      if (split.normalize != SplitNormalize::average)
        for (index_t e = begin; e < begin + split.skills; ++e) along += d[e] * split.active(z[e], token, e) / total;
      if (split.normalize == SplitNormalize::l2 && !(total > split.epsilon)) along = 0; // the divisor is a constant
      for (index_t e = begin; e < begin + split.skills; ++e) {
        C const w = split.normalize == SplitNormalize::l2 ? z[e] / total : C(1);
        d[e] = (d[e] - w * along) / total * split.slope(z[e], token, e);
      }
    }
  }
};

} // namespace detail

/// Weights of experts in splits, each normalised within its own:
///
///     w_e = sigmoid(z_e) / (sum over the experts of e's split of sigmoid(z) + epsilon)
///
/// for MergedAdapters, where expert s K + k is skill k of split s. The sum is over all experts of the split, chosen or not.
/// Other activities and divisors are settings. Draws are keyed by seed, step and sequence.
/// Source: multi-head routing, microsoft/mttl (docs/policies/gate/split_gate.md).
/// \throws kokomo::Error 103 unless splits divide the experts, 106 unless epsilon > 0 and 0 <= dropout < 1, or for negative
///         tokens_per_sequence
struct SplitGate {
  using Score = SigmoidScore;

  index_t splits = 1;     ///< S >= 1
  float epsilon = 1e-12f; ///< > 0
  SkillActivity activity = SkillActivity::sigmoid;
  SplitNormalize normalize = SplitNormalize::sum;
  bool shared_skill = false;        ///< the last expert of each split is active always
  float dropout = 0;                ///< of activities, in training; 0 <= dropout < 1
  offset_t tokens_per_sequence = 0; ///< tokens that share their draws; 0: all of a call
  std::uint64_t seed = 0;

  void check(Sizes const& sizes) const {
    detail::require(splits >= 1 && sizes.experts % splits == 0, 103, "SplitGate splits = ", splits,
                    ", expected a divisor of ", sizes.experts, " experts");
    detail::require(epsilon > 0, 106, "SplitGate epsilon = ", epsilon, ", expected > 0");
    detail::require(dropout >= 0 && dropout < 1, 106, "SplitGate dropout = ", dropout, ", expected 0 <= dropout < 1");
    detail::require(tokens_per_sequence >= 0, 106, "SplitGate tokens_per_sequence = ", tokens_per_sequence,
                    ", expected >= 0");
  }

  template <class T, class Exec>
  void forward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&,
               Assignment<T, Exec> const& a) const {
    detail::for_each(exec, "kokomo::SplitGate::forward", a.tokens,
                     detail::WeighInSplits<T, Exec>{routing, a, weights(routing)});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                Vector<compute_t<T> const, Exec> const& d_weight, Matrix<compute_t<T>, Exec> const& d_logits,
                Nothing const&, Write, Nothing const&) const {
    detail::for_each(exec, "kokomo::SplitGate::backward", a.tokens,
                     detail::WeighInSplitsBackward<T, Exec>{routing, a, weights(routing), d_weight, d_logits});
  }

private:
  template <class R> detail::SplitWeights<typename R::compute_type> weights(R const& routing) const {
    using C = typename R::compute_type;
    return {routing.sizes.experts / splits,
            splits,
            activity,
            normalize,
            shared_skill,
            routing.mode == Mode::training,
            C(epsilon),
            C(dropout),
            seed,
            routing.step,
            detail::Sequences(routing.sizes.tokens, tokens_per_sequence)};
  }
};

} // namespace kokomo::inline v0

#endif
