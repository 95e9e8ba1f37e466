// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_GATE_SELECTED_SOFTMAX_HPP
#define KOKOMO_GATE_SELECTED_SOFTMAX_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct SelectedSoftmaxWeigh {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  C scale;
  bool round_weights;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    offset_t const begin = a.token_offsets[token], end = a.token_offsets[token + 1];
    C const* const z = routing.row(token);
    C max = -Kokkos::Experimental::infinity_v<C>;
    for (offset_t i = begin; i < end; ++i)
      if (a.expert[i] != none && z[a.expert[i]] > max) max = z[a.expert[i]];
    C sum = 0;
    for (offset_t i = begin; i < end; ++i) sum += a.weight[i] = share(z, i, max);
    for (offset_t i = begin; i < end; ++i) {
      C const weight = sum != C(0) ? a.weight[i] / sum * scale : C(0);
      a.weight[i] = round_weights ? rounded_to<T>(weight) : weight;
    }
  }
  KOKKOS_FUNCTION C share(C const* z, offset_t i, C max) const {
    index_t const e = a.expert[i];
    return e != none && z[e] > -Kokkos::Experimental::infinity_v<C> ? Kokkos::exp(z[e] - max) : C(0);
  }
};

template <class T, class Exec> struct SelectedSoftmaxGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  C scale;
  Vector<C const, Exec> d_weight;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (index_t e = 0; e < routing.sizes.columns; ++e) d_logits(token, e) = 0;
    // w = scale * softmax, so dz_e = w_e (dw_e - sum_i dw_i w_i / scale)
    C along = 0;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) along += d_weight[i] * a.weight[i];
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      if (a.expert[i] != none) d_logits(token, a.expert[i]) += a.weight[i] * (d_weight[i] - along / scale);
  }
};

} // namespace detail

/// Softmax over the logits of the chosen experts only (GPT-OSS, Granite, Aria), times a scale:
///
///     w_e = scale * exp(z_e) / sum over the chosen i of exp(z_i)
///
/// What capacity drops loses its share. Source: transformers gpt_oss, granitemoe.
/// \throws kokomo::Error 106 for a scale of zero
struct SelectedSoftmaxGate {
  using Score = IdentityScore;

  float scale = 1;            ///< not zero
  bool round_weights = false; ///< weights rounded to the storage type

  void check(Sizes const&) const {
    detail::require(scale != 0, 106, "SelectedSoftmaxGate scale = 0, expected another value");
  }

  template <class T, class Exec>
  void forward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&,
               Assignment<T, Exec> const& a) const {
    detail::for_each(exec, "kokomo::SelectedSoftmaxGate::forward", a.tokens,
                     detail::SelectedSoftmaxWeigh<T, Exec>{routing, a, compute_t<T>(scale), round_weights});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                Vector<compute_t<T> const, Exec> const& d_weight, Matrix<compute_t<T>, Exec> const& d_logits,
                Nothing const&, Write, Nothing const&) const {
    detail::for_each(exec, "kokomo::SelectedSoftmaxGate::backward", a.tokens,
                     detail::SelectedSoftmaxGradient<T, Exec>{routing, a, compute_t<T>(scale), d_weight, d_logits});
  }
};

} // namespace kokomo::inline v0

#endif
