// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_IMPORTANCE_LOSS_HPP
#define KOKOMO_BALANCER_IMPORTANCE_LOSS_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/balance_counts.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// CV^2 = var / (mean^2 + epsilon) of v[0, n) and, to phi, its derivative by each element.
template <class C> KOKKOS_FUNCTION C squared_variation(C const* v, index_t n, bool sample, C epsilon, C* phi) {
  C mean = 0, variance = 0;
  for (index_t e = 0; e < n; ++e) mean += v[e];
  mean /= C(n);
  for (index_t e = 0; e < n; ++e) variance += (v[e] - mean) * (v[e] - mean);
  C const count = sample ? C(n - 1) : C(n);
  C const scale = mean * mean + epsilon;
  bool const defined = count > C(0) && scale > C(0);
  for (index_t e = 0; e < n; ++e)
    phi[e] = defined ? C(2) * (v[e] - mean) / (count * scale) - variance / count * C(2) * mean / (C(n) * scale * scale)
                     : C(0);
  return defined ? variance / count / scale : C(0);
}

template <class C, class Exec> struct AddVariation {
  Matrix<C const, Exec> values; // [1, experts], or none if there are no tokens
  bool sample;
  C epsilon, coefficient;
  Vector<C, Exec> phi; // [experts]
  Vector<C, Exec> loss;
  KOKKOS_FUNCTION void operator()(offset_t) const {
    if (values.extent(0) == 0) return;
    loss[0] += coefficient * squared_variation(values.data(), index_t(phi.extent(0)), sample, epsilon, phi.data());
  }
};

template <class Mass, class T, class Exec> struct VariationGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Matrix<C const, Exec> mass;
  Vector<C const, Exec> phi;
  C coefficient;
  Matrix<C, Exec> d_logits;
  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (routing.masked(token)) return;
    Mass::add_gradient(
        routing.row(token), routing.sizes.experts, &mass(token, 0), [&](index_t e) { return phi[e]; }, coefficient,
        &d_logits(token, 0));
  }
};

} // namespace detail

/// The importance loss: how unevenly a batch's weight falls on the experts,
///
///     loss = coefficient * CV^2(I),   I_e = sum over tokens of p_e,   CV^2 = variance / (mean^2 + epsilon).
///
/// Zero if and only if all experts have the same importance (or there is one expert, or no token). Both ways carry a
/// gradient: unlike a count, p depends on the logits. Masked tokens leave I.
/// \tparam Mass p: ChosenSoftmaxMass, the weights of SelectedSoftmaxGate (Shazeer et al.), or SoftmaxMass over all
///              experts (V-MoE; there of the logits without noise)
/// \throws kokomo::Error 106 for a negative epsilon, 107 for `.clean` without NoisyScorer's columns
template <class Mass = ChosenSoftmaxMass> struct ImportanceLoss {
  using Distribution = Mass;

  float coefficient = 1e-2f;
  float epsilon = 1e-10f;
  bool sample_variance = false; ///< divide by E - 1
  bool clean = false;           ///< of the logits without noise, with NoisyScorer

  template <class T, class Exec> struct Saved {
    detail::BalanceSums<compute_t<T>, Exec> sums;
    Vector<compute_t<T>, Exec> phi; ///< [experts]

    Saved(detail::Arena& arena, ImportanceLoss const&, Sizes const& sizes)
        : sums(arena, {sizes.tokens, sizes.tokens}, sizes.experts, 0, false),
          phi(arena.vector<compute_t<T>, Exec>(sizes.experts)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(epsilon >= 0, 106, "ImportanceLoss epsilon = ", epsilon, ", expected >= 0");
    detail::require(!clean || sizes.columns >= 3 * sizes.experts, 107, "ImportanceLoss reads NoisyScorer's ",
                    3 * sizes.experts, " columns, but this router has ", sizes.columns);
  }

  template <class T, class Exec, class State>
  void observe(Exec const& exec, Routing<T, Exec> routing, Assignment<T, Exec> const& a, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    if (clean) routing.logits = from_column(routing.logits, routing.sizes.experts);
    detail::sum_up<Mass>(exec, "kokomo::ImportanceLoss::sum", routing, a, {routing.sizes.tokens, routing.sizes.tokens},
                         {}, detail::NoPicks{}, saved.sums);
    detail::for_each(exec, "kokomo::ImportanceLoss::add", 1,
                     detail::AddVariation<C, Exec>{saved.sums.mass_sum, sample_variance, C(epsilon), C(coefficient),
                                                   saved.phi, loss});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Routing<T, Exec> routing, Assignment<T, Exec> const&, Saved<T, Exec> const& saved,
                Matrix<compute_t<T>, Exec> d_logits) const {
    if (clean) {
      routing.logits = from_column(routing.logits, routing.sizes.experts);
      d_logits = from_column(d_logits, routing.sizes.experts);
    }
    detail::for_each(exec, "kokomo::ImportanceLoss::backward", routing.sizes.tokens,
                     detail::VariationGradient<Mass, T, Exec>{routing, saved.sums.mass, saved.phi,
                                                              compute_t<T>(coefficient), d_logits});
  }

private:
  /// The same rows, read from another column on.
  template <class M> static M from_column(M const& rows, index_t column) {
    return M(rows.data() + column, rows.extent(0), rows.extent(1));
  }
};

} // namespace kokomo::inline v0

#endif
