// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_COMBINE_WEIGHTED_SUM_HPP
#define KOKOMO_COMBINE_WEIGHTED_SUM_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// out[t] = sum over the executed entries of token t of (weight *) rows[row], in entry order: the owner of a token
/// gathers, nobody scatters, so there are no atomics and the order never changes.
template <class T, class Exec> struct GatherSum {
  using C = compute_t<T>;
  Assignment<T, Exec> a;
  C const* rows;
  C* out;
  offset_t width;
  bool weighted;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C* const sum = out + token * width;
    for (offset_t h = 0; h < width; ++h) sum[h] = 0;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      if (a.row[i] == none) continue;
      C const w = weighted ? a.weight[i] : C(1);
      C const* const row = rows + offset_t(a.row[i]) * width;
      for (offset_t h = 0; h < width; ++h) sum[h] += w * row[h];
    }
  }
};

/// One element of it, the same bits: neighbouring threads of a device read neighbouring columns.
template <class T, class Exec> struct GatherSumElement {
  using C = compute_t<T>;
  Assignment<T, Exec> a;
  C const* rows;
  C* out;
  offset_t width;
  bool weighted;

  KOKKOS_FUNCTION void operator()(offset_t element) const {
    offset_t const token = element / width, h = element % width;
    C sum = 0;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      if (a.row[i] != none) sum += (weighted ? a.weight[i] : C(1)) * rows[offset_t(a.row[i]) * width + h];
    out[element] = sum;
  }
};

template <class Exec, class T>
void gather_sum(Exec const& exec, char const* label, Assignment<T, Exec> const& a, compute_t<T> const* rows,
                compute_t<T>* out, offset_t width, bool weighted) {
  if constexpr (runs_on_host_v<Exec>)
    for_each(exec, label, a.tokens, GatherSum<T, Exec>{a, rows, out, width, weighted});
  else
    for_each(exec, label, a.tokens * width, GatherSumElement<T, Exec>{a, rows, out, width, weighted});
}

template <class T> struct FinishSum {
  using C = compute_t<T>;
  C const* routed;
  C const* shared; // null: there is none
  C const* bias;   // null: there is none
  T* y;
  offset_t hidden;
  C routed_scale, scale;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    C value = routed_scale * routed[i];
    if (shared != nullptr) value += shared[i];
    value *= scale;
    if (bias != nullptr) value += bias[i % hidden];
    y[i] = T(value);
  }
};

template <class T> struct FinishSumBackward {
  using C = compute_t<T>;
  T const* dy;
  C* d_routed;
  C* d_shared; // null: there is none
  C routed_scale, scale;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    C const g = C(dy[i]) * scale;
    d_routed[i] = routed_scale * g;
    if (d_shared != nullptr) d_shared[i] = g;
  }
};

template <class T> struct BiasGradient {
  T const* dy;
  offset_t tokens, hidden;
  compute_t<T>* grad;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t h) const {
    compute_t<T> sum = 0;
    for (offset_t t = 0; t < tokens; ++t) sum += compute_t<T>(dy[t * hidden + h]);
    grad[h] = write == Write::add ? grad[h] + sum : sum;
  }
};

} // namespace detail

/// y = scale (routed_scale * sum over the chosen experts of w expert(x) + shared(x)) + bias, in a fixed order.
///
/// The sum over experts goes through a token's entries, best first where the selector ranks, in the compute type;
/// rounding to the storage type happens once, at the end. `scale` 1/2 averages routed and shared part (Cohere2).
struct WeightedSum {
  using slot = slots::combine;

  float routed_scale = 1; ///< factor of the routed part alone
  float scale = 1;        ///< factor of routed and shared part
  bool bias = false;      ///< a vector added once to every token (JetMoE)

  template <class T, class Exec> struct Parameters {
    OwnedVector<compute_t<T>, Exec> bias; ///< [hidden], if `bias`

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, WeightedSum const& policy, Sizes const& sizes) {
      if (policy.bias) allocate(bias, "kokomo::WeightedSum::bias", sizes.hidden);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      if (bias.extent(0) > 0) f(Name{prefix, "bias"}, bias);
    }
  };

  /// \param[in] routed, shared [tokens, hidden]; shared may be null
  /// \param[out] y [tokens, hidden]
  template <class T, class Exec>
  void finish(Exec const& exec, Parameters<T, Exec> const& parameters, compute_t<T> const* routed,
              compute_t<T> const* shared, Matrix<T, Exec> const& y, Nothing const&) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::WeightedSum::finish", offset_t(y.size()),
                     detail::FinishSum<T>{routed, shared, parameters.bias.data(), y.data(), offset_t(y.extent(1)),
                                          C(routed_scale), C(scale)});
  }

  /// \param[out] d_routed, d_shared [tokens, hidden]; d_shared may be null
  template <class T, class Exec>
  void finish_backward(Exec const& exec, Parameters<T, Exec> const&, Matrix<T const, Exec> const& dy,
                       compute_t<T>* d_routed, compute_t<T>* d_shared, Parameters<T, Exec> const& grads, Write write,
                       Nothing const&, Nothing const&) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::WeightedSum::finish_backward", offset_t(dy.size()),
                     detail::FinishSumBackward<T>{dy.data(), d_routed, d_shared, C(routed_scale), C(scale)});
    if (bias)
      detail::for_each(
          exec, "kokomo::WeightedSum::bias_gradient", offset_t(dy.extent(1)),
          detail::BiasGradient<T>{dy.data(), offset_t(dy.extent(0)), offset_t(dy.extent(1)), grads.bias.data(), write});
  }
};

} // namespace kokomo::inline v0

#endif
