// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_DISAGREEMENT_LOSS_HPP
#define KOKOMO_BALANCER_DISAGREEMENT_LOSS_HPP

#include <kokomo/balancer/focal_loss.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// The expert that gives a token's target the highest probability; none where all of them predict the same symbol.
template <class T, class Exec> struct LabelDisagreement {
  using C = compute_t<T>;
  T const* outputs; // [experts, tokens, symbols]
  Vector<index_t const, Exec> targets;
  index_t experts;
  offset_t tokens, symbols;
  Vector<index_t, Exec> labels;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    offset_t const target = targets[token];
    labels[token] = none;
    if (target < 0 || target >= symbols) return;
    bool agree = true;
    offset_t first_prediction = 0;
    index_t best = none;
    C best_log = -Kokkos::Experimental::infinity_v<C>;
    for (index_t e = 0; e < experts; ++e) {
      T const* const z = outputs + (offset_t(e) * tokens + token) * symbols;
      offset_t prediction = 0;
      C max = -Kokkos::Experimental::infinity_v<C>, sum = 0;
      for (offset_t v = 0; v < symbols; ++v)
        if (C(z[v]) > max) max = C(z[v]), prediction = v;
      for (offset_t v = 0; v < symbols; ++v)
        if (C(z[v]) > -Kokkos::Experimental::infinity_v<C>) sum += Kokkos::exp(C(z[v]) - max);
      C const log_probability = C(z[target]) - max - Kokkos::log(sum);
      if (log_probability > best_log) best_log = log_probability, best = e; // NaN and -infinity: no candidate
      if (e == 0) first_prediction = prediction;
      agree = agree && prediction == first_prediction;
    }
    if (!agree) labels[token] = best;
  }
};

} // namespace detail

/// Teaches a router which of several frozen experts to trust, where that matters:
///
///     loss = coefficient * mean over the tokens on which experts disagree of -log p_best,   p = softmax(z)
///
/// Experts disagree on a token unless all of them have the same most probable symbol (of equals the first). The best one gives the
/// token's target the highest probability; of equals the first. `outputs` [experts, tokens or more, symbols] are the
/// experts' logits, as of GivenOutputs, `targets` [tokens or more] symbols, or -1 (none): no loss. Both are the caller's.
/// Masked tokens, and those whose target no expert can say, have no loss either.
/// Source: FusionRoute, whose loss of the router is masked so; its form is reconstructed
/// (docs/policies/balancer/disagreement_loss.md).
/// \throws kokomo::Error 106 unless coefficient >= 0, 107 for Views of other extents
template <class S = float, class Exec = Kokkos::DefaultExecutionSpace> struct DisagreementLoss {
  float coefficient = 1; ///< >= 0
  OwnedTensor<S, Exec> outputs{};
  OwnedVector<index_t, Exec> targets{};

  template <class T, class E> struct Saved {
    Vector<index_t, E> labels;           ///< [tokens] the expert to choose, or none
    Vector<compute_t<T>, E> term, slope; ///< [tokens]
    Vector<compute_t<T>, E> factor;      ///< [1]

    Saved(detail::Arena& arena, DisagreementLoss const&, Sizes const& sizes)
        : labels(arena.vector<index_t, E>(sizes.tokens)), term(arena.vector<compute_t<T>, E>(sizes.tokens)),
          slope(arena.vector<compute_t<T>, E>(sizes.tokens)), factor(arena.vector<compute_t<T>, E>(1)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(coefficient >= 0, 106, "DisagreementLoss coefficient = ", coefficient, ", expected >= 0");
    detail::require(offset_t(outputs.extent(0)) == sizes.experts && offset_t(outputs.extent(1)) >= sizes.tokens, 107,
                    "DisagreementLoss outputs has extents [", outputs.extent(0), ", ", outputs.extent(1), ", ",
                    outputs.extent(2), "], expected [", sizes.experts, ", ", sizes.tokens, " or more, symbols]");
    detail::require(offset_t(targets.extent(0)) >= sizes.tokens, 107, "DisagreementLoss targets has ",
                    targets.extent(0), " elements, expected one for each of ", sizes.tokens, " tokens");
  }

  template <class T, class State>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::DisagreementLoss::label", routing.sizes.tokens,
                     detail::LabelDisagreement<S, Exec>{outputs.data(), targets, routing.sizes.experts,
                                                        offset_t(outputs.extent(1)), offset_t(outputs.extent(2)),
                                                        saved.labels});
    detail::for_each(exec, "kokomo::DisagreementLoss::term", routing.sizes.tokens,
                     detail::FocalTerm<T, Exec>{routing, saved.labels, {}, C(0), saved.term, saved.slope});
    detail::for_each(exec, "kokomo::DisagreementLoss::mean", 1,
                     detail::FocalMean<C, Exec>{saved.term, saved.factor, loss, C(coefficient)});
  }

  template <class T>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    detail::for_each(exec, "kokomo::DisagreementLoss::backward", routing.sizes.tokens,
                     detail::FocalGradient<T, Exec>{routing, saved.labels, saved.slope, saved.factor, d_logits});
  }
};

} // namespace kokomo::inline v0

#endif
