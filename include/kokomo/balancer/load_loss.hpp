// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_LOAD_LOSS_HPP
#define KOKOMO_BALANCER_LOAD_LOSS_HPP

#include <kokomo/balancer/importance_loss.hpp>
#include <kokomo/detail/ranking.hpp>

namespace kokomo::inline v0 {

/// What an expert's noisy logit must exceed to be among the k best.
enum class LoadThreshold {
  excluding, ///< the k-th best of the others (Shazeer et al.): the (k + 1)-th for those that are among the k best
  kth        ///< the k-th best of all (V-MoE)
};

namespace detail {

/// The parts of a token's row from NoisyScorer, and where its thresholds stand.
template <class T, class Exec> struct NoisyRow {
  using C = compute_t<T>;
  C const* z;
  index_t experts;
  Rank<C> kth, next;
  LoadThreshold form;

  KOKKOS_FUNCTION NoisyRow(Routing<T, Exec> const& routing, offset_t token, int k, LoadThreshold threshold)
      : z(routing.row(token)), experts(routing.sizes.experts), kth(ahead_of_all<C>()), form(threshold) {
    for (int j = 0; j < k; ++j) kth = next_best(z, experts, kth);
    next = k < experts ? next_best(z, experts, kth) : Rank<C>{C(0), none};
  }
  /// The expert whose noisy logit is e's threshold; none: there is none to exceed.
  KOKKOS_FUNCTION index_t threshold_of(index_t e) const {
    if (form == LoadThreshold::kth) return kth.index;
    bool const among = !kth.before(Rank<C>{rankable(z[e]), e});
    return among ? next.index : kth.index;
  }
  KOKKOS_FUNCTION C deviation(index_t e) const { return z[2 * experts + e]; }
  /// (clean - threshold) / deviation
  KOKKOS_FUNCTION C margin(index_t e, index_t threshold) const {
    return (z[experts + e] - z[threshold]) / deviation(e);
  }
};

template <class T, class Exec> struct ProbabilityOfLoad {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  int k;
  LoadThreshold form;
  Matrix<C, Exec> probability; // [tokens, experts]

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (routing.masked(token)) {
      for (index_t e = 0; e < routing.sizes.experts; ++e) probability(token, e) = 0;
      return;
    }
    NoisyRow<T, Exec> const row(routing, token, k, form);
    for (index_t e = 0; e < row.experts; ++e) {
      index_t const threshold = row.threshold_of(e);
      if (threshold == none)
        probability(token, e) = 1;
      else if (row.deviation(e) > C(0))
        probability(token, e) = C(0.5) * Kokkos::erfc(-row.margin(e, threshold) * C(0.70710678118654752440));
      else
        probability(token, e) = row.z[row.experts + e] > row.z[threshold] ? C(1) : C(0);
    }
  }
};

template <class T, class Exec> struct LoadGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  int k;
  LoadThreshold form;
  Vector<C const, Exec> phi;
  C coefficient;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (routing.masked(token)) return;
    NoisyRow<T, Exec> const row(routing, token, k, form);
    C* const d = &d_logits(token, 0);
    for (index_t e = 0; e < row.experts; ++e) {
      index_t const threshold = row.threshold_of(e);
      if (threshold == none || !(row.deviation(e) > C(0))) continue;
      C const margin = row.margin(e, threshold);
      C const density = Kokkos::exp(C(-0.5) * margin * margin) * C(0.39894228040143267794);
      C const g = coefficient * phi[e] * density / row.deviation(e);
      d[row.experts + e] += g;
      d[threshold] -= g;
      d[2 * row.experts + e] -= g * margin;
    }
  }
};

} // namespace detail

/// The load loss: how unevenly tokens are expected to fall on the experts, were the noise drawn anew,
///
///     loss = coefficient * CV^2(L),   L_e = sum over tokens of Phi((clean_e - threshold_e) / deviation_e),
///
/// Phi the normal distribution function. The smooth stand-in for a count: its gradient reaches the clean logits, the
/// deviations, and the noisy logit that is the threshold. With k = E (LoadThreshold::excluding) every load is a count
/// without a gradient; so is one without deviation. Needs NoisyScorer, whose columns it reads.
/// Source: Shazeer et al. 2017 by their formula; V-MoE (LoadThreshold::kth). The much copied PyTorch port compares
/// logits with softmaxed thresholds, which this does not.
/// \throws kokomo::Error 102 unless 1 <= k <= experts, 106 for a negative epsilon, 107 without NoisyScorer's columns
struct LoadLoss {
  float coefficient = 1e-2f;
  int k = 2; ///< the selector's
  LoadThreshold threshold = LoadThreshold::excluding;
  float epsilon = 1e-10f;
  bool sample_variance = false; ///< divide by E - 1

  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> probability; ///< [tokens, experts]
    Matrix<compute_t<T>, Exec> load;        ///< [1, experts]
    Vector<compute_t<T>, Exec> phi;         ///< [experts]

    Saved(detail::Arena& arena, LoadLoss const&, Sizes const& sizes)
        : probability(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.experts)),
          load(arena.matrix<compute_t<T>, Exec>(1, sizes.experts)),
          phi(arena.vector<compute_t<T>, Exec>(sizes.experts)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(k >= 1 && k <= sizes.experts, 102, "LoadLoss k = ", k, ", expected 1 <= k <= ", sizes.experts);
    detail::require(epsilon >= 0, 106, "LoadLoss epsilon = ", epsilon, ", expected >= 0");
    detail::require(sizes.columns >= 3 * sizes.experts, 107, "LoadLoss reads NoisyScorer's ", 3 * sizes.experts,
                    " columns, but this router has ", sizes.columns);
  }

  template <class T, class Exec, class State>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    offset_t const tokens = routing.sizes.tokens;
    detail::for_each(exec, "kokomo::LoadLoss::probability", tokens,
                     detail::ProbabilityOfLoad<T, Exec>{routing, k, threshold, saved.probability});
    detail::for_each(exec, "kokomo::LoadLoss::sum", routing.sizes.experts,
                     detail::SumBlocks<C, C, Exec>{saved.probability, saved.load, tokens});
    detail::for_each(
        exec, "kokomo::LoadLoss::add", 1,
        detail::AddVariation<C, Exec>{saved.load, sample_variance, C(epsilon), C(coefficient), saved.phi, loss});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    detail::for_each(
        exec, "kokomo::LoadLoss::backward", routing.sizes.tokens,
        detail::LoadGradient<T, Exec>{routing, k, threshold, saved.phi, compute_t<T>(coefficient), d_logits});
  }
};

} // namespace kokomo::inline v0

#endif
