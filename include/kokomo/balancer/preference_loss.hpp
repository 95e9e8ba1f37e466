// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_PREFERENCE_LOSS_HPP
#define KOKOMO_BALANCER_PREFERENCE_LOSS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// A token's loss, and its slope with respect to z_heavy - z_light.
template <class T, class Exec> struct PreferenceTerm {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Vector<double const, Exec> target;
  index_t light, heavy;
  Vector<C, Exec> term, slope; // [tokens]; a negative term: no target

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const wins = C(target[token]);
    term[token] = -1, slope[token] = 0;
    if (routing.masked(token) || !(wins >= C(0)) || !(wins <= C(1))) return;
    C const d = routing.logits(token, heavy) - routing.logits(token, light);
    // -w log sigmoid(d) - (1 - w) log sigmoid(-d) = log(1 + exp d) - w d, without overflow
    term[token] = Kokkos::max(d, C(0)) + Kokkos::log1p(Kokkos::exp(-Kokkos::abs(d))) - wins * d;
    slope[token] = sigmoid(d) - wins;
  }
};

template <class C, class Exec> struct PreferenceMean {
  Vector<C, Exec> term, factor, loss;
  C coefficient;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    C sum = 0;
    offset_t count = 0;
    for (std::size_t t = 0; t < term.extent(0); ++t)
      if (!(term[t] < C(0))) sum += term[t], ++count;
    factor[0] = count > 0 ? coefficient / C(count) : C(0);
    loss[0] += factor[0] * sum;
  }
};

template <class C, class Exec> struct PreferenceGradient {
  Vector<C, Exec> slope, factor;
  Matrix<C, Exec> d_logits;
  index_t light, heavy;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    d_logits(token, heavy) += factor[0] * slope[token];
    d_logits(token, light) -= factor[0] * slope[token];
  }
};

} // namespace detail

/// Fits a router of two experts to the probability that the heavy one wins:
///
///     loss = coefficient * mean over tokens with a target w of -w log s - (1 - w) log(1 - s),   s = sigmoid(z_heavy - z_light)
///
/// `target` [tokens or more] holds win_probability of the token's task, outside of 0 .. 1 for tokens without; a request whose
/// tokens share their logits needs one. The caller's, read by forward and backward. Masked tokens have none.
/// Source: NanoVLA (docs/policies/balancer/preference_loss.md).
/// \throws kokomo::Error 102 unless light and heavy are two experts, 106 unless coefficient >= 0, 107 for a target of another
///         length
template <class Exec = Kokkos::DefaultExecutionSpace> struct PreferenceLoss {
  float coefficient = 1; ///< >= 0
  index_t light = 0, heavy = 1;
  OwnedVector<double, Exec> target{};

  template <class T, class E> struct Saved {
    Vector<compute_t<T>, E> term, slope; ///< [tokens]
    Vector<compute_t<T>, E> factor;      ///< [1]

    Saved(detail::Arena& arena, PreferenceLoss const&, Sizes const& sizes)
        : term(arena.vector<compute_t<T>, E>(sizes.tokens)), slope(arena.vector<compute_t<T>, E>(sizes.tokens)),
          factor(arena.vector<compute_t<T>, E>(1)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(light >= 0 && heavy >= 0 && light != heavy && light < sizes.experts && heavy < sizes.experts, 102,
                    "PreferenceLoss light = ", light, ", heavy = ", heavy, ", expected two of ", sizes.experts,
                    " experts");
    detail::require(coefficient >= 0, 106, "PreferenceLoss coefficient = ", coefficient, ", expected >= 0");
    detail::require(offset_t(target.extent(0)) >= sizes.tokens, 107, "PreferenceLoss target has ", target.extent(0),
                    " elements, expected one for each of ", sizes.tokens, " tokens");
  }

  template <class T, class State>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::PreferenceLoss::term", routing.sizes.tokens,
                     detail::PreferenceTerm<T, Exec>{routing, target, light, heavy, saved.term, saved.slope});
    detail::for_each(exec, "kokomo::PreferenceLoss::mean", 1,
                     detail::PreferenceMean<C, Exec>{saved.term, saved.factor, loss, C(coefficient)});
  }

  template <class T>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    detail::for_each(exec, "kokomo::PreferenceLoss::backward", routing.sizes.tokens,
                     detail::PreferenceGradient<compute_t<T>, Exec>{saved.slope, saved.factor, d_logits, light, heavy});
  }
};

} // namespace kokomo::inline v0

#endif
