// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_COMBINE_LOGIT_ADD_HPP
#define KOKOMO_COMBINE_LOGIT_ADD_HPP

#include <kokomo/combine/weighted_sum.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// log softmax of one row of routed + shared.
template <class T> struct AddLogits {
  using C = compute_t<T>;
  C const* routed;
  C const* shared; // null: there is none
  C* log_probability;
  T* y;
  offset_t width;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const nothing = -Kokkos::Experimental::infinity_v<C>;
    C* const row = log_probability + token * width;
    C max = nothing, sum = 0;
    for (offset_t v = 0; v < width; ++v) {
      offset_t const i = token * width + v;
      row[v] = routed[i] + (shared != nullptr ? shared[i] : C(0));
      if (row[v] > max) max = row[v];
    }
    for (offset_t v = 0; v < width; ++v)
      if (row[v] > nothing) sum += Kokkos::exp(row[v] - max);
    C const log_sum = Kokkos::log(sum);
    for (offset_t v = 0; v < width; ++v) {
      row[v] = row[v] > nothing ? row[v] - max - log_sum : nothing;
      y[token * width + v] = T(row[v]);
    }
  }
};

/// d = dy - p sum dy; what cannot be chosen gets none.
template <class T> struct AddLogitsBackward {
  using C = compute_t<T>;
  T const* dy;
  C const* log_probability;
  C* d_routed;
  C* d_shared; // null: there is none
  offset_t width;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const nothing = -Kokkos::Experimental::infinity_v<C>;
    C sum = 0;
    for (offset_t i = token * width; i < (token + 1) * width; ++i)
      if (log_probability[i] > nothing) sum += C(dy[i]);
    for (offset_t i = token * width; i < (token + 1) * width; ++i) {
      C const l = log_probability[i];
      d_routed[i] = l > nothing ? C(dy[i]) - Kokkos::exp(l) * sum : C(0);
      if (d_shared != nullptr) d_shared[i] = d_routed[i];
    }
  }
};

} // namespace detail

/// The product of two distributions over a vocabulary, as logarithms: log softmax of both parts, their sum, and that
/// normalised,
///
///     y = log softmax(log softmax(routed) + log softmax(shared)) = log softmax(routed + shared)
///
/// Rows of the layer are logits of `hidden` symbols; y are logarithms of probabilities. A constant added to either part
/// changes nothing. A symbol of logit -infinity (or NaN) in either part keeps -infinity, and moves nothing in backward.
/// Source: FusionRoute (arXiv 2601.05106), from notes; docs/policies/combine/logit_add.md.
struct LogitAdd {
  using slot = slots::combine;

  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> log_probability; ///< [tokens, hidden] y in the compute type

    Saved(detail::Arena& arena, LogitAdd const&, Sizes const& sizes)
        : log_probability(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.hidden)) {}
  };

  template <class T, class Exec>
  void finish(Exec const& exec, Nothing const&, compute_t<T> const* routed, compute_t<T> const* shared,
              Matrix<T, Exec> const& y, Saved<T, Exec> const& saved) const {
    detail::for_each(
        exec, "kokomo::LogitAdd::finish", offset_t(y.extent(0)),
        detail::AddLogits<T>{routed, shared, saved.log_probability.data(), y.data(), offset_t(y.extent(1))});
  }

  template <class T, class Exec>
  void finish_backward(Exec const& exec, Nothing const&, Matrix<T const, Exec> const& dy, compute_t<T>* d_routed,
                       compute_t<T>* d_shared, Nothing const&, Write, Saved<T, Exec> const& saved,
                       Nothing const&) const {
    detail::for_each(exec, "kokomo::LogitAdd::finish_backward", offset_t(dy.extent(0)),
                     detail::AddLogitsBackward<T>{dy.data(), saved.log_probability.data(), d_routed, d_shared,
                                                  offset_t(dy.extent(1))});
  }
};

} // namespace kokomo::inline v0

#endif
