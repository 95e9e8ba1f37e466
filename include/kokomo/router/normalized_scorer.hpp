// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_NORMALIZED_SCORER_HPP
#define KOKOMO_ROUTER_NORMALIZED_SCORER_HPP

#include <kokomo/detail/rms_norm.hpp>
#include <kokomo/router/linear_scorer.hpp>

#include <cmath>

namespace kokomo::inline v0 {

/// A linear scorer of a normalised input: r = x (mean(x^2) + epsilon)^(-1/2) scale H^(-1/2), z = W r (+ b ...).
/// Parameters: those of `linear`, and `scale` [router width]. Source: transformers gemma4.
/// \throws kokomo::Error 106 for a negative epsilon
struct NormalizedScorer {
  LinearScorer linear{};
  float epsilon = 1e-6f; ///< >= 0

  template <class T, class Exec> struct Parameters {
    LinearScorer::Parameters<T, Exec> linear;
    OwnedVector<compute_t<T>, Exec> scale;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, NormalizedScorer const& policy, Sizes const& sizes)
        : linear(allocate, policy.linear, sizes) {
      allocate(scale, "kokomo::NormalizedScorer::scale", sizes.router_width);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      linear.for_each(f, prefix);
      f(Name{prefix, "scale"}, scale);
    }
  };
  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> input; ///< [tokens, router width] r

    Saved(detail::Arena& arena, NormalizedScorer const&, Sizes const& sizes)
        : input(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.router_width)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Matrix<compute_t<T>, Exec> d_input; // [tokens, router width]
    Vector<compute_t<T>, Exec> inverse; // [tokens]

    BackwardScratch(detail::Arena& arena, NormalizedScorer const&, Sizes const& sizes)
        : d_input(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.router_width)),
          inverse(arena.vector<compute_t<T>, Exec>(sizes.tokens)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(epsilon >= 0, 106, "NormalizedScorer epsilon = ", epsilon, ", expected >= 0");
    linear.check(sizes);
  }

  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
               Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved, Nothing const&,
               detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    detail::rms_norm(exec, "kokomo::NormalizedScorer::norm", x.data(), saved.input.data(), offset_t(x.extent(0)),
                     offset_t(x.extent(1)), settings<T>(parameters, x));
    linear.forward<T>(exec, parameters.linear, Matrix<C const, Exec>(saved.input), Nothing{}, logits, Nothing{},
                      Nothing{}, workers);
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
                Matrix<compute_t<T> const, Exec> const& logits, Matrix<compute_t<T>, Exec> const& d_logits,
                Matrix<compute_t<T>, Exec> const& dx, Nothing const&, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    detail::fill(exec, "kokomo::NormalizedScorer::reset", scratch.d_input.data(), offset_t(scratch.d_input.size()), 0);
    linear.backward<T>(exec, parameters.linear, Matrix<C const, Exec>(saved.input), Nothing{}, logits, d_logits,
                       scratch.d_input, Nothing{}, grads.linear, write, Nothing{}, Nothing{}, workers);
    detail::rms_norm_backward(exec, "kokomo::NormalizedScorer::norm_backward", x.data(),
                              static_cast<C const*>(scratch.d_input.data()), dx.data(), scratch.inverse.data(),
                              offset_t(x.extent(0)), offset_t(x.extent(1)), settings<T>(parameters, x),
                              grads.scale.data(), write);
  }

private:
  template <class T, class P, class X> detail::RmsNormSettings<compute_t<T>> settings(P const& p, X const& x) const {
    using C = compute_t<T>;
    return {C(epsilon), 0, C(1) / std::sqrt(C(x.extent(1))), p.scale.data()};
  }
};

} // namespace kokomo::inline v0

#endif
