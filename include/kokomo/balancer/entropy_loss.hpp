// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_ENTROPY_LOSS_HPP
#define KOKOMO_BALANCER_ENTROPY_LOSS_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/balance_counts.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Mean over unmasked tokens, in order.
template <class C, class Exec> struct AddMeanEntropy {
  Vector<C const, Exec> entropies;
  BalanceSums<C, Exec> sums;
  C coefficient;
  Vector<C, Exec> loss;
  KOKKOS_FUNCTION void operator()(offset_t) const {
    C sum = 0;
    for (std::size_t t = 0; t < entropies.extent(0); ++t) sum += entropies[t];
    if (sums.tokens.extent(0) > 0 && sums.tokens[0] > 0) loss[0] += coefficient * sum / C(sums.tokens[0]);
  }
};

/// dH/dz_j = -p_j (ln p_j + H)
template <class T, class Exec> struct EntropyGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  BalanceSums<C, Exec> sums;
  Vector<C const, Exec> entropies;
  C coefficient;
  Matrix<C, Exec> d_logits;
  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (routing.masked(token)) return;
    C const factor = coefficient / C(sums.tokens[0]);
    for (index_t e = 0; e < routing.sizes.experts; ++e) {
      C const p = sums.mass(token, e);
      if (p > C(0)) d_logits(token, e) -= factor * p * (Kokkos::log(p) + entropies[token]);
    }
  }
};

} // namespace detail

/// The router's entropy, coefficient * mean over tokens of H(softmax(z)), H(p) = -sum_e p_e ln p_e.
///
/// The sign is the coefficient's: above zero it is penalised and routing sharpens, below zero it is rewarded and routing
/// flattens. `.normalized` divides by ln E. Masked tokens leave numerator and denominator.
/// Source: top-p routing (1e-4, penalised); LoRA-Mixer prints the other sign than its text describes.
struct EntropyLoss {
  float coefficient = 1e-4f;
  bool normalized = false;

  template <class T, class Exec> struct Saved {
    detail::BalanceSums<compute_t<T>, Exec> sums;
    Vector<compute_t<T>, Exec> entropies; ///< [tokens]

    Saved(detail::Arena& arena, EntropyLoss const&, Sizes const& sizes)
        : sums(arena, {sizes.tokens, sizes.tokens}, sizes.experts, 0, false),
          entropies(arena.vector<compute_t<T>, Exec>(sizes.tokens)) {}
  };

  void check(Sizes const&) const {
    detail::require(coefficient == coefficient, 106, "EntropyLoss coefficient is NaN, expected a number");
  }

  template <class T, class Exec, class State>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    detail::sum_up<SoftmaxMass>(exec, "kokomo::EntropyLoss::sum", routing, a,
                                {routing.sizes.tokens, routing.sizes.tokens}, {}, detail::NoPicks{}, saved.sums);
    detail::for_each(exec, "kokomo::EntropyLoss::entropy", routing.sizes.tokens,
                     detail::TokenEntropy<T, Exec>{routing, saved.sums.mass, saved.entropies});
    detail::for_each(exec, "kokomo::EntropyLoss::add", 1,
                     detail::AddMeanEntropy<C, Exec>{saved.entropies, saved.sums, factor<C>(routing.sizes), loss});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    using C = compute_t<T>;
    detail::for_each(
        exec, "kokomo::EntropyLoss::backward", routing.sizes.tokens,
        detail::EntropyGradient<T, Exec>{routing, saved.sums, saved.entropies, factor<C>(routing.sizes), d_logits});
  }

private:
  template <class C> C factor(Sizes const& sizes) const {
    if (!normalized) return C(coefficient);
    return sizes.experts > 1 ? C(coefficient) / Kokkos::log(C(sizes.experts)) : C(0);
  }
};

} // namespace kokomo::inline v0

#endif
