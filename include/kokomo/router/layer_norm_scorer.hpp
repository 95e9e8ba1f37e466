// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_LAYER_NORM_SCORER_HPP
#define KOKOMO_ROUTER_LAYER_NORM_SCORER_HPP

#include <kokomo/router/linear_scorer.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// normed = (x - mean) / sqrt(variance + epsilon), row by row; `inverse` keeps 1 / sqrt.
template <class T> struct NormalizeRows {
  using C = compute_t<T>;
  T const* x;
  offset_t width;
  C epsilon, factor;
  C *normed, *inverse;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    T const* const in = x + row * width;
    C* const out = normed + row * width;
    C mean = 0, variance = 0;
    for (offset_t h = 0; h < width; ++h) mean += static_cast<C>(in[h]);
    mean /= C(width);
    for (offset_t h = 0; h < width; ++h) variance += (static_cast<C>(in[h]) - mean) * (static_cast<C>(in[h]) - mean);
    C const scale = C(1) / Kokkos::sqrt(variance / C(width) + epsilon);
    for (offset_t h = 0; h < width; ++h) out[h] = factor * scale * (static_cast<C>(in[h]) - mean);
    inverse[row] = scale;
  }
};

/// dx += inverse (d - mean d - n mean(d n)), with n the normalised row and d the gradient of it.
template <class C> struct NormalizeRowsBackward {
  C const *d_normed, *normed, *inverse;
  offset_t width;
  C factor;
  C* dx;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    C const *const d = d_normed + row * width, *const n = normed + row * width;
    C mean = 0, along = 0;
    for (offset_t h = 0; h < width; ++h) mean += factor * d[h], along += d[h] * n[h];
    mean /= C(width), along /= C(width);
    for (offset_t h = 0; h < width; ++h)
      dx[row * width + h] += inverse[row] * (factor * d[h] - mean - n[h] / factor * along);
  }
};

} // namespace detail

/// Inner products of the normalised input with a vector of each expert, z_e = <LN(x), w_e> / sqrt(width): mean 0, variance 1,
/// no affine part. Parameters: those of `linear`.
/// Source: the local router of PHATGOOSE as Glider's code has it, UNITES-Lab/glider (arXiv:2410.07172), where each w_e is a
/// trained gate that was normalised likewise.
/// \throws kokomo::Error 106 unless epsilon > 0
struct LayerNormScorer {
  LinearScorer linear{};
  float epsilon = 1e-5f;

  template <class T, class Exec> struct Parameters : LinearScorer::Parameters<T, Exec> {
    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, LayerNormScorer const& policy, Sizes const& sizes)
        : LinearScorer::Parameters<T, Exec>(allocate, policy.linear, sizes) {}
  };
  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> normed;  ///< [tokens, router width] LN(x) / sqrt(width)
    Vector<compute_t<T>, Exec> inverse; ///< [tokens]

    Saved(detail::Arena& arena, LayerNormScorer const&, Sizes const& sizes)
        : normed(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.router_width)),
          inverse(arena.vector<compute_t<T>, Exec>(sizes.tokens)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Matrix<compute_t<T>, Exec> d_normed; // [tokens, router width]

    BackwardScratch(detail::Arena& arena, LayerNormScorer const&, Sizes const& sizes)
        : d_normed(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.router_width)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(epsilon > 0, 106, "LayerNormScorer epsilon = ", epsilon, ", expected > 0");
    linear.check(sizes);
  }

  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
               Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved, Nothing const&,
               detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::LayerNormScorer::norm", offset_t(x.extent(0)),
                     detail::NormalizeRows<T>{x.data(), offset_t(x.extent(1)), C(epsilon), factor<C>(x),
                                              saved.normed.data(), saved.inverse.data()});
    linear.forward<T>(exec, parameters, Matrix<C const, Exec>(saved.normed), Nothing{}, logits, Nothing{}, Nothing{},
                      workers);
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
                Matrix<compute_t<T> const, Exec> const& logits, Matrix<compute_t<T>, Exec> const& d_logits,
                Matrix<compute_t<T>, Exec> const& dx, Nothing const&, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    detail::fill(exec, "kokomo::LayerNormScorer::reset", scratch.d_normed.data(), offset_t(scratch.d_normed.size()), 0);
    linear.backward<T>(exec, parameters, Matrix<C const, Exec>(saved.normed), Nothing{}, logits, d_logits,
                       scratch.d_normed, Nothing{}, grads, write, Nothing{}, Nothing{}, workers);
    detail::for_each(exec, "kokomo::LayerNormScorer::norm_backward", offset_t(x.extent(0)),
                     detail::NormalizeRowsBackward<C>{scratch.d_normed.data(), saved.normed.data(),
                                                      saved.inverse.data(), offset_t(x.extent(1)), factor<C>(x),
                                                      dx.data()});
  }

private:
  template <class C, class X> static C factor(X const& x) { return C(1) / Kokkos::sqrt(C(x.extent(1))); }
};

} // namespace kokomo::inline v0

#endif
