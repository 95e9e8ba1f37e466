// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_Z_LOSS_HPP
#define KOKOMO_BALANCER_Z_LOSS_HPP

#include <kokomo/balancer/load_balancing_loss.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// logsumexp of a token's logits, and its softmax.
template <class C> struct LogSumExp {
  SoftmaxScore::Row<C> row;
  C value;
  KOKKOS_FUNCTION LogSumExp(C const* z, index_t n)
      : row(SoftmaxScore::row(z, n)), value(row.inverse_sum > C(0) ? row.max - Kokkos::log(row.inverse_sum) : C(0)) {}
};

template <class T, class Exec> struct ZLossTerm {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Matrix<C, Exec> term; // [tokens, 1]
  KOKKOS_FUNCTION void operator()(offset_t token) const {
    LogSumExp<C> const lse(routing.row(token), routing.sizes.experts);
    term(token, 0) = routing.masked(token) ? C(0) : lse.value * lse.value;
  }
};

template <class T, class Exec> struct AddZLoss {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Matrix<C, Exec> term;
  C coefficient;
  Vector<C, Exec> tokens; // [1] unmasked ones
  Vector<C, Exec> loss;
  KOKKOS_FUNCTION void operator()(offset_t) const {
    C sum = 0, count = 0;
    for (std::size_t t = 0; t < term.extent(0); ++t) {
      sum += term(t, 0);
      count += routing.masked(offset_t(t)) ? C(0) : C(1);
    }
    tokens[0] = count;
    if (count > C(0)) loss[0] += coefficient * sum / count;
  }
};

template <class T, class Exec> struct ZLossGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  C coefficient;
  Vector<C, Exec> tokens;
  Matrix<C, Exec> d_logits;
  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (routing.masked(token)) return;
    LogSumExp<C> const lse(routing.row(token), routing.sizes.experts);
    C const factor = coefficient * C(2) * lse.value / tokens[0];
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      d_logits(token, e) += factor * SoftmaxScore::value(lse.row, routing.logits(token, e));
  }
};

} // namespace detail

/// The router z-loss: coefficient * mean over tokens of logsumexp(z)^2. It keeps logits small; at z = 0 it is
/// coefficient * (ln E)^2. Masked tokens leave numerator and denominator.
/// Source: ST-MoE as mesh-tensorflow and Megatron have it; transformers switch_transformers.
struct ZLoss {
  float coefficient = 1e-3f;

  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> term;   ///< [tokens, 1]
    Vector<compute_t<T>, Exec> tokens; ///< [1]

    Saved(detail::Arena& arena, ZLoss const&, Sizes const& sizes)
        : term(arena.matrix<compute_t<T>, Exec>(sizes.tokens, 1)), tokens(arena.vector<compute_t<T>, Exec>(1)) {}
  };

  template <class T, class Exec, class State>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    detail::for_each(exec, "kokomo::ZLoss::term", routing.sizes.tokens,
                     detail::ZLossTerm<T, Exec>{routing, saved.term});
    detail::for_each(exec, "kokomo::ZLoss::add", 1,
                     detail::AddZLoss<T, Exec>{routing, saved.term, compute_t<T>(coefficient), saved.tokens, loss});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    detail::for_each(exec, "kokomo::ZLoss::backward", routing.sizes.tokens,
                     detail::ZLossGradient<T, Exec>{routing, compute_t<T>(coefficient), saved.tokens, d_logits});
  }
};

} // namespace kokomo::inline v0

#endif
