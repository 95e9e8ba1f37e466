// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_SCORE_HPP
#define KOKOMO_SCORE_HPP

#include <kokomo/detail/exponential.hpp>
#include <kokomo/types.hpp>

namespace kokomo::inline v0 {

/// Score functions turn the logits of one token into scores. They are evaluated one expert at a time, after a pass over
/// the row for those that normalise over all experts:
///
///     auto row = Score::row(z, n);            // what all experts share
///     C s = Score::value(row, z[e]);          // the score of expert e
///     C slope = Score::slope(z[e], s);        // ds/dz, where experts do not couple
///
/// A `coupled` score is a softmax: its gradient is dz_j = s_j (ds_j - sum_i ds_i s_i).

/// s = softmax(z) over all experts. NaN logits count as -infinity; a row without a finite logit scores zero.
struct SoftmaxScore {
  static constexpr bool coupled = true;
  template <class C> struct Row {
    C max;
    C inverse_sum;
  };

  template <class C> KOKKOS_FUNCTION static Row<C> row(C const* z, index_t n) {
    C max = -Kokkos::Experimental::infinity_v<C>;
    for (index_t e = 0; e < n; ++e)
      if (z[e] > max) max = z[e];
    C sum = 0;
    for (index_t e = 0; e < n; ++e)
      if (z[e] > -Kokkos::Experimental::infinity_v<C>) sum += Kokkos::exp(z[e] - max);
    return {max, sum > C(0) ? C(1) / sum : C(0)};
  }
  template <class C> KOKKOS_FUNCTION static C value(Row<C> const& row, C z) {
    return z > -Kokkos::Experimental::infinity_v<C> ? Kokkos::exp(z - row.max) * row.inverse_sum : C(0);
  }
};

namespace detail {
/// A score that looks at one logit only.
template <class Derived> struct ElementwiseScore {
  static constexpr bool coupled = false;
  template <class C> struct Row {};
  template <class C> KOKKOS_FUNCTION static Row<C> row(C const*, index_t) { return {}; }
  template <class C> KOKKOS_FUNCTION static C value(Row<C> const&, C z) { return Derived::of(z); }
};

template <class C> KOKKOS_FORCEINLINE_FUNCTION C sigmoid(C z) {
  // exp of a negative number only: no overflow for any z
  C const e = exp_of_negative(-Kokkos::abs(z));
  return unless_negative(z, C(1), e) / (C(1) + e);
}
} // namespace detail

/// s = 1 / (1 + exp(-z))
struct SigmoidScore : detail::ElementwiseScore<SigmoidScore> {
  template <class C> KOKKOS_FUNCTION static C of(C z) { return detail::sigmoid(z); }
  template <class C> KOKKOS_FUNCTION static C slope(C, C s) { return s * (C(1) - s); }
};

/// s = sqrt(log(1 + exp(z)))
struct SqrtSoftplusScore : detail::ElementwiseScore<SqrtSoftplusScore> {
  template <class C> KOKKOS_FUNCTION static C of(C z) {
    return Kokkos::sqrt(Kokkos::max(z, C(0)) + Kokkos::log1p(Kokkos::exp(-Kokkos::abs(z))));
  }
  template <class C> KOKKOS_FUNCTION static C slope(C z, C s) {
    return s > C(0) ? detail::sigmoid(z) / (C(2) * s) : C(0);
  }
};

/// s = exp(z)
struct ExponentialScore : detail::ElementwiseScore<ExponentialScore> {
  template <class C> KOKKOS_FUNCTION static C of(C z) { return Kokkos::exp(z); }
  template <class C> KOKKOS_FUNCTION static C slope(C, C s) { return s; }
};

/// s = z
struct IdentityScore : detail::ElementwiseScore<IdentityScore> {
  template <class C> KOKKOS_FUNCTION static C of(C z) { return z; }
  template <class C> KOKKOS_FUNCTION static C slope(C, C) { return C(1); }
};

/// s = max(z, 0)
struct ReluScore : detail::ElementwiseScore<ReluScore> {
  template <class C> KOKKOS_FUNCTION static C of(C z) { return z > C(0) ? z : C(0); }
  template <class C> KOKKOS_FUNCTION static C slope(C z, C) { return z > C(0) ? C(1) : C(0); }
};

} // namespace kokomo::inline v0

#endif
