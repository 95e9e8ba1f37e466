// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_ORTHOGONALITY_LOSS_HPP
#define KOKOMO_BALANCER_ORTHOGONALITY_LOSS_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/balance_counts.hpp>
#include <kokomo/detail/dot.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// |<r_i, r_j> - (i == j)| and its sign, of one pair of router rows.
template <class C, class Exec> struct GramDeviation {
  Matrix<C const, Exec> rows; // [experts, width]
  Matrix<C, Exec> sign;       // [experts, experts]
  Matrix<C, Exec> term;       // [experts, experts]

  KOKKOS_FUNCTION void operator()(offset_t pair) const {
    auto const n = static_cast<offset_t>(sign.extent(0));
    offset_t const i = pair / n, j = pair % n;
    if (j < i) return; // symmetric: written together with (j, i)
    C const deviation = dot<C>(&rows(i, 0), &rows(j, 0), offset_t(rows.extent(1))) - (i == j ? C(1) : C(0));
    C const s = C((deviation > C(0)) - (deviation < C(0)));
    sign(i, j) = sign(j, i) = s;
    term(i, j) = term(j, i) = s * deviation;
  }
};

/// d row_i += 2 factor sum_j sign_ij row_j: the loss is symmetric in the pair.
template <class C, class Exec> struct GramGradient {
  Matrix<C const, Exec> rows;
  Matrix<C const, Exec> sign;
  C factor;
  Matrix<C, Exec> d_rows;

  static constexpr offset_t block = 64; // columns that one thread works on

  KOKKOS_FUNCTION void operator()(offset_t index) const {
    auto const n = static_cast<offset_t>(sign.extent(0)), width = static_cast<offset_t>(rows.extent(1));
    offset_t const blocks = (width + block - 1) / block, i = index / blocks, first = index % blocks * block;
    offset_t const last = Kokkos::min(first + block, width);
    for (offset_t j = 0; j < n; ++j) {
      C const scale = C(2) * factor * sign(i, j);
      for (offset_t h = first; h < last; ++h) d_rows(i, h) += scale * rows(j, h);
    }
  }
};

} // namespace detail

/// Keeps the router's rows orthonormal: coefficient * || R R^T - I ||_1, entry by entry, R the scorer's `weight`
/// [experts, router width]. It does not look at tokens, and preserves angles of what it routes by rather than counts.
/// At a kink the gradient is 0. Needs a scorer whose parameters have a `weight` of the compute type.
/// Source: SimBal (arXiv 2506.14038), from notes about the paper: 0.1, orthogonal initialisation.
struct OrthogonalityLoss {
  float coefficient = 0.1f;

  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> sign, term; ///< [experts, experts]

    Saved(detail::Arena& arena, OrthogonalityLoss const&, Sizes const& sizes)
        : sign(arena.matrix<compute_t<T>, Exec>(sizes.experts, sizes.experts)),
          term(arena.matrix<compute_t<T>, Exec>(sizes.experts, sizes.experts)) {}
  };

  void check(Sizes const&) const {
    detail::require(coefficient >= 0, 106, "OrthogonalityLoss coefficient = ", coefficient, ", expected >= 0");
  }

  template <class T, class Exec, class Parameters>
  void observe_parameters(Exec const& exec, Parameters const& parameters, Routing<T, Exec> const&,
                          Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::OrthogonalityLoss::gram", offset_t(saved.sign.size()),
                     detail::GramDeviation<C, Exec>{parameters.router.weight, saved.sign, saved.term});
    detail::for_each(exec, "kokomo::OrthogonalityLoss::add", 1,
                     detail::AddLoss<C, Exec>{saved.term, C(coefficient), loss});
  }

  template <class T, class Exec, class Parameters>
  void backward_parameters(Exec const& exec, Parameters const& parameters, Routing<T, Exec> const&,
                           Saved<T, Exec> const& saved, Parameters const& grads) const {
    using C = compute_t<T>;
    using Gradient = detail::GramGradient<C, Exec>;
    auto const& weight = parameters.router.weight;
    auto const blocks = (offset_t(weight.extent(1)) + Gradient::block - 1) / Gradient::block;
    detail::for_each(exec, "kokomo::OrthogonalityLoss::backward", offset_t(saved.sign.extent(0)) * blocks,
                     Gradient{weight, saved.sign, C(coefficient), grads.router.weight});
  }
};

} // namespace kokomo::inline v0

#endif
