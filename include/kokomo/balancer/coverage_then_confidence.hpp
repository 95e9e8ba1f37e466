// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_COVERAGE_THEN_CONFIDENCE_HPP
#define KOKOMO_BALANCER_COVERAGE_THEN_CONFIDENCE_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/balance_counts.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// The numbers of the two stages, in the compute type.
template <class C> struct TwoStages {
  C coverage_first, coverage_last, confidence_last;
  offset_t ramp;

  /// How far the second stage has come, in [0, 1].
  KOKKOS_FUNCTION C progress(offset_t step, offset_t trigger) const {
    if (trigger == 0) return C(0);
    return ramp > 0 ? Kokkos::min(C(1), C(step - trigger) / C(ramp)) : C(1);
  }
  KOKKOS_FUNCTION C coverage(C progress) const { return coverage_first + progress * (coverage_last - coverage_first); }
  KOKKOS_FUNCTION C confidence(C progress) const { return progress * confidence_last; }
};

template <class State, class T, class Exec> struct ObserveTwoStages {
  using C = compute_t<T>;
  TwoStages<C> stages;
  BalanceSums<C, Exec> sums;
  Vector<C const, Exec> entropies;
  State state;
  bool training;
  Vector<C, Exec> phi;    // [experts] d loss / d (mean p_e)
  Vector<C, Exec> factor; // [1] confidence coefficient / ln E
  Vector<C, Exec> loss;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    auto const experts = static_cast<index_t>(phi.extent(0));
    if (sums.tokens.extent(0) == 0 || sums.tokens[0] == 0 || experts < 2) {
      factor[0] = 0;
      for (index_t e = 0; e < experts; ++e) phi[e] = 0;
      return;
    }
    C const tokens = C(sums.tokens[0]), most = Kokkos::log(C(experts));
    C const progress = stages.progress(state.steps[0], state.trigger[0]);
    C mean_entropy = 0, usage = 0;
    for (std::size_t t = 0; t < entropies.extent(0); ++t) mean_entropy += entropies[t];
    mean_entropy /= tokens;
    for (index_t e = 0; e < experts; ++e) {
      C const p = sums.mass_sum(0, e) / tokens;
      C const log = p > C(0) ? Kokkos::log(p) : C(0);
      usage -= p * log;
      phi[e] = stages.coverage(progress) * log; // + a constant, which a softmax takes no notice of
    }
    factor[0] = stages.confidence(progress) / most;
    loss[0] += stages.coverage(progress) * (most - usage) + factor[0] * mean_entropy;
    if (training) {
      state.entropy_sum[0] += mean_entropy / most;
      ++state.observed[0];
    }
  }
};

template <class T, class Exec> struct TwoStageGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  BalanceSums<C, Exec> sums;
  Vector<C const, Exec> entropies, phi, factor;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (routing.masked(token)) return;
    C const share = C(1) / C(sums.tokens[0]);
    C const* const p = &sums.mass(token, 0);
    SoftmaxMass::add_gradient(
        routing.row(token), routing.sizes.experts, p, [&](index_t e) { return phi[e]; }, share, &d_logits(token, 0));
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      if (p[e] > C(0)) d_logits(token, e) -= share * factor[0] * p[e] * (Kokkos::log(p[e]) + entropies[token]);
  }
};

template <class State, class C> struct StepTwoStages {
  State state;
  C threshold, decay;
  offset_t window;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    if (state.observed[0] == 0) return; // nothing was seen: no check
    C const seen = state.entropy_sum[0] / C(state.observed[0]);
    state.average[0] = state.steps[0] == 0 ? seen : decay * state.average[0] + (C(1) - decay) * seen;
    state.entropy_sum[0] = 0;
    state.observed[0] = 0;
    ++state.steps[0];
    state.below[0] = state.average[0] < threshold ? state.below[0] + 1 : 0;
    if (state.trigger[0] == 0 && state.below[0] >= window) state.trigger[0] = state.steps[0];
  }
};

} // namespace detail

/// First coverage, then confidence: one loss that spreads the batch over all experts and one that makes each token's
/// routing sure, the second faded in once routing has become sure enough by itself.
///
///     L_coverage = ln E - H(mean over tokens of p),   L_confidence = mean over tokens of H(p) / ln E,   p = softmax(z)
///     loss = c(n) L_coverage + s(n) L_confidence
///
/// `step` moves the average h <- decay h + (1 - decay) mean L_confidence of the training passes since the last step. When
/// h has been below `threshold` for `window` steps on end, the second stage begins, once and for good: from
/// (c, s) = (coverage, 0) linearly over `ramp` steps to (final_coverage, confidence).
///
/// RECONSTRUCTED. Of the source (MAGNET, arXiv 2602.20723) only this was known: two stages, coverage then confidence,
/// progressive, triggered by the routing entropy with a threshold and a window. Formulas and defaults are ours.
/// State: `average`, `entropy_sum`, `observed`, `steps`, `below`, and `trigger`, the step of the switch, 0 before.
/// \throws kokomo::Error 106 for settings out of range
struct CoverageThenConfidence {
  float coverage = 1e-2f;
  float final_coverage = 1e-3f;
  float confidence = 1e-2f;
  float threshold = 0.9f; ///< of the average entropy / ln E
  float decay = 0.9f;     ///< of the average, 0 <= decay < 1
  offset_t window = 5;    ///< >= 1
  offset_t ramp = 1000;   ///< steps, >= 0

  template <class T, class Exec> struct State {
    using C = compute_t<T>;
    OwnedVector<C, Exec> average, entropy_sum;
    OwnedVector<offset_t, Exec> observed, steps, below, trigger;

    State() = default;
    State(Allocator<Exec> const& allocate, CoverageThenConfidence const&, Sizes const&) {
      allocate(average, "kokomo::CoverageThenConfidence::average", 1);
      allocate(entropy_sum, "kokomo::CoverageThenConfidence::entropy_sum", 1);
      allocate(observed, "kokomo::CoverageThenConfidence::observed", 1);
      allocate(steps, "kokomo::CoverageThenConfidence::steps", 1);
      allocate(below, "kokomo::CoverageThenConfidence::below", 1);
      allocate(trigger, "kokomo::CoverageThenConfidence::trigger", 1);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "average"}, average), f(Name{prefix, "entropy_sum"}, entropy_sum);
      f(Name{prefix, "observed"}, observed), f(Name{prefix, "steps"}, steps);
      f(Name{prefix, "below"}, below), f(Name{prefix, "trigger"}, trigger);
    }
  };
  template <class T, class Exec> struct Saved {
    detail::BalanceSums<compute_t<T>, Exec> sums;
    Vector<compute_t<T>, Exec> entropies; ///< [tokens]
    Vector<compute_t<T>, Exec> phi;       ///< [experts]
    Vector<compute_t<T>, Exec> factor;    ///< [1]

    Saved(detail::Arena& arena, CoverageThenConfidence const&, Sizes const& sizes)
        : sums(arena, {sizes.tokens, sizes.tokens}, sizes.experts, 0, false),
          entropies(arena.vector<compute_t<T>, Exec>(sizes.tokens)),
          phi(arena.vector<compute_t<T>, Exec>(sizes.experts)), factor(arena.vector<compute_t<T>, Exec>(1)) {}
  };

  void check(Sizes const&) const {
    detail::require(decay >= 0 && decay < 1, 106, "CoverageThenConfidence decay = ", decay,
                    ", expected 0 <= decay < 1");
    detail::require(threshold >= 0, 106, "CoverageThenConfidence threshold = ", threshold, ", expected >= 0");
    detail::require(window >= 1, 106, "CoverageThenConfidence window = ", window, ", expected >= 1");
    detail::require(ramp >= 0, 106, "CoverageThenConfidence ramp = ", ramp, ", expected >= 0");
  }

  template <class T, class Exec>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
               State<T, Exec> const& state, Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    offset_t const tokens = routing.sizes.tokens;
    detail::sum_up<SoftmaxMass>(exec, "kokomo::CoverageThenConfidence::sum", routing, a, {tokens, tokens}, {},
                                detail::NoPicks{}, saved.sums);
    detail::for_each(exec, "kokomo::CoverageThenConfidence::entropy", tokens,
                     detail::TokenEntropy<T, Exec>{routing, saved.sums.mass, saved.entropies});
    detail::TwoStages<C> const stages{C(coverage), C(final_coverage), C(confidence), ramp};
    detail::for_each(exec, "kokomo::CoverageThenConfidence::observe", 1,
                     detail::ObserveTwoStages<State<T, Exec>, T, Exec>{stages, saved.sums, saved.entropies, state,
                                                                       routing.mode == Mode::training, saved.phi,
                                                                       saved.factor, loss});
  }
  template <class T, class Exec>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    detail::for_each(
        exec, "kokomo::CoverageThenConfidence::backward", routing.sizes.tokens,
        detail::TwoStageGradient<T, Exec>{routing, saved.sums, saved.entropies, saved.phi, saved.factor, d_logits});
  }
  template <class T, class Exec> void step(Exec const& exec, State<T, Exec> const& state) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::CoverageThenConfidence::step", 1,
                     detail::StepTwoStages<State<T, Exec>, C>{state, C(threshold), C(decay), window});
  }
};

} // namespace kokomo::inline v0

#endif
