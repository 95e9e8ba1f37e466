// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MASS_HPP
#define KOKOMO_MASS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/detail/ranking.hpp>
#include <kokomo/routing.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {

/// What balancing losses take for the probabilities P of one token, and the way back. A mass has
///
///     Mass::write(z, n, p);                             // p[0 .. n) of the logits z
///     Mass::add_gradient(z, n, p, phi, factor, d);      // d += factor * sum_e phi(e) dp_e/dz
///     Mass::distribution                                // whether a token's p sum to one

/// p = s / sum of s over all experts; of a softmax, which sums to one already, the softmax. A row whose scores all vanish
/// has p = 0.
template <class Score> struct NormalizedMass {
  static constexpr bool distribution = true;

  template <class C> KOKKOS_FUNCTION static void write(C const* z, index_t n, C* p) {
    if constexpr (Score::coupled) {
      constexpr C lowest = -Kokkos::Experimental::infinity_v<C>;
      C max = lowest;
      for (index_t e = 0; e < n; ++e) max = z[e] > max ? z[e] : max; // NaN never is
      for (index_t e = 0; e < n; ++e) p[e] = z[e] > lowest ? detail::exp_of_negative(z[e] - max) : C(0);
    } else {
      for (index_t e = 0; e < n; ++e) p[e] = Score::of(z[e]);
    }
    C sum = 0;
    for (index_t e = 0; e < n; ++e) sum += p[e];
    C const inverse = sum > C(0) ? C(1) / sum : C(0);
    for (index_t e = 0; e < n; ++e) p[e] *= inverse;
  }

  template <class C, class Phi>
  KOKKOS_FUNCTION static void add_gradient(C const* z, index_t n, C const* p, Phi const& phi, C factor, C* d) {
    C mean = 0;
    for (index_t e = 0; e < n; ++e) mean += phi(e) * p[e];
    if constexpr (Score::coupled) {
      for (index_t e = 0; e < n; ++e) d[e] += factor * p[e] * (phi(e) - mean);
    } else {
      C sum = 0;
      for (index_t e = 0; e < n; ++e) sum += Score::of(z[e]);
      C const scale = sum > C(0) ? factor / sum : C(0);
      for (index_t e = 0; e < n; ++e) d[e] += scale * Score::slope(z[e], Score::of(z[e])) * (phi(e) - mean);
    }
  }
};

/// p = s as it is, unbounded: what ReMoE sums up.
template <class Score> struct RawMass {
  static_assert(!Score::coupled, "kokomo::RawMass: a softmax is a distribution, use NormalizedMass<SoftmaxScore>");
  static constexpr bool distribution = false;

  template <class C> KOKKOS_FUNCTION static void write(C const* z, index_t n, C* p) {
    for (index_t e = 0; e < n; ++e) p[e] = Score::of(z[e]);
  }
  template <class C, class Phi>
  KOKKOS_FUNCTION static void add_gradient(C const* z, index_t n, C const* p, Phi const& phi, C factor, C* d) {
    for (index_t e = 0; e < n; ++e) d[e] += factor * phi(e) * Score::slope(z[e], p[e]);
  }
};

using SoftmaxMass = NormalizedMass<SoftmaxScore>;

/// p = softmax over the logits of all experts but the token's first choice, 0 there.
struct RunnerUpMass {
  static constexpr bool distribution = true;

  template <class C> KOKKOS_FUNCTION static void write(C const* z, index_t n, C* p) {
    constexpr C lowest = -Kokkos::Experimental::infinity_v<C>;
    index_t const first = detail::next_best(z, n, detail::ahead_of_all<C>()).index;
    C max = lowest, sum = 0;
    for (index_t e = 0; e < n; ++e) max = e != first && z[e] > max ? z[e] : max;
    for (index_t e = 0; e < n; ++e)
      sum += p[e] = e != first && z[e] > lowest ? detail::exp_of_negative(z[e] - max) : C(0);
    C const inverse = sum > C(0) ? C(1) / sum : C(0);
    for (index_t e = 0; e < n; ++e) p[e] *= inverse;
  }
  template <class C, class Phi>
  KOKKOS_FUNCTION static void add_gradient(C const* z, index_t n, C const* p, Phi const& phi, C factor, C* d) {
    SoftmaxMass::add_gradient(z, n, p, phi, factor, d); // p vanishes where nothing depends on z
  }
};

/// p = softmax over the logits of the experts that the layer chose for the token, 0 elsewhere.
struct ChosenSoftmaxMass {
  static constexpr bool distribution = true;

  template <class T, class Exec>
  KOKKOS_FUNCTION static void write_chosen(Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                                           offset_t token, compute_t<T>* p) {
    using C = compute_t<T>;
    constexpr C lowest = -Kokkos::Experimental::infinity_v<C>;
    C const* const z = routing.row(token);
    offset_t const begin = a.token_offsets[token], end = a.token_offsets[token + 1];
    for (index_t e = 0; e < routing.sizes.experts; ++e) p[e] = 0;
    C max = lowest, sum = 0;
    for (offset_t i = begin; i < end; ++i)
      if (a.expert[i] != none && z[a.expert[i]] > max) max = z[a.expert[i]];
    for (offset_t i = begin; i < end; ++i)
      if (a.expert[i] != none && z[a.expert[i]] > lowest)
        sum += p[a.expert[i]] = detail::exp_of_negative(z[a.expert[i]] - max);
    for (offset_t i = begin; i < end; ++i)
      if (a.expert[i] != none && sum > C(0)) p[a.expert[i]] /= sum;
  }
  template <class C, class Phi>
  KOKKOS_FUNCTION static void add_gradient(C const* z, index_t n, C const* p, Phi const& phi, C factor, C* d) {
    SoftmaxMass::add_gradient(z, n, p, phi, factor, d); // p vanishes where nothing depends on z
  }
};

namespace detail {

/// p [experts] of one token.
template <class Mass, class T, class Exec>
KOKKOS_FUNCTION void write_mass(Routing<T, Exec> const& routing, Assignment<T, Exec> const& a, offset_t token,
                                compute_t<T>* p) {
  if constexpr (std::is_same_v<Mass, ChosenSoftmaxMass>)
    Mass::write_chosen(routing, a, token, p);
  else
    Mass::write(routing.row(token), routing.sizes.experts, p);
}

} // namespace detail

} // namespace kokomo::inline v0

#endif
