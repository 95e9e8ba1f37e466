// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_SPACE_LATENT_HPP
#define KOKOMO_SPACE_LATENT_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/linear.hpp>
#include <kokomo/detail/rms_norm.hpp>
#include <kokomo/error.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {

/// Experts work in a narrower space: they read h = W_in x, and W_out maps the weighted sum of their outputs back. With
/// `.norm`, h is an RMS norm of W_in x, times (norm_offset + weight). The router and shared experts see x.
/// Source: transformers nemotron_h (latent experts), muse_spark (with the norm).
/// \throws kokomo::Error 101 unless size >= 1, 106 for a negative epsilon
struct Latent {
  using slot = slots::space;

  offset_t size = 0; ///< width of the experts' space, >= 1
  bool norm = false;
  float epsilon = 1e-5f; ///< >= 0
  float norm_offset = 0; ///< added to the norm's weight

  template <class T, class Exec> struct Parameters {
    OwnedMatrix<T, Exec> in;              ///< [size, hidden]
    OwnedMatrix<T, Exec> out;             ///< [hidden, size]
    OwnedVector<compute_t<T>, Exec> norm; ///< [size], if `norm`

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, Latent const& policy, Sizes const& sizes) {
      allocate(in, "kokomo::Latent::in", policy.size, sizes.hidden);
      allocate(out, "kokomo::Latent::out", sizes.hidden, policy.size);
      if (policy.norm) allocate(norm, "kokomo::Latent::norm", policy.size);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "in"}, in);
      f(Name{prefix, "out"}, out);
      if (norm.extent(0) > 0) f(Name{prefix, "norm"}, norm);
    }
  };
  template <class T, class Exec> struct Saved {
    Matrix<T, Exec> x;                    ///< [tokens, size] what the experts read
    Matrix<compute_t<T>, Exec> projected; ///< [tokens, size] before the norm, if `norm`
    Matrix<compute_t<T>, Exec> combined;  ///< [tokens, size] the weighted sum of the experts' outputs

    Saved(detail::Arena& arena, Latent const& policy, Sizes const& sizes)
        : x(arena.matrix<T, Exec>(sizes.tokens, policy.size)),
          projected(arena.matrix<compute_t<T>, Exec>(policy.norm ? sizes.tokens : 0, policy.size)),
          combined(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.size)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Vector<compute_t<T>, Exec> inverse;     // [tokens]
    Matrix<compute_t<T>, Exec> d_projected; // [tokens, size], if `norm`

    BackwardScratch(detail::Arena& arena, Latent const& policy, Sizes const& sizes)
        : inverse(arena.vector<compute_t<T>, Exec>(sizes.tokens)),
          d_projected(arena.matrix<compute_t<T>, Exec>(policy.norm ? sizes.tokens : 0, policy.size)) {}
  };

  offset_t width(offset_t) const { return size; }
  void check(Sizes const&) const {
    detail::require(size >= 1, 101, "latent size = ", size, ", expected >= 1");
    detail::require(epsilon >= 0, 106, "Latent epsilon = ", epsilon, ", expected >= 0");
  }

  template <class T, class Exec>
  void enter(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
             Saved<T, Exec> const& saved, detail::WorkerScratch const& workers) const {
    auto const rows = offset_t(x.extent(0)), hidden = offset_t(x.extent(1));
    auto const project = [&](auto* target) {
      detail::linear(exec, "kokomo::Latent::in", x.data(), rows, hidden, static_cast<T const*>(parameters.in.data()),
                     static_cast<T const*>(nullptr), size, target, Write::overwrite, workers);
    };
    if (!norm) return project(saved.x.data());
    project(saved.projected.data());
    detail::rms_norm(exec, "kokomo::Latent::norm", static_cast<compute_t<T> const*>(saved.projected.data()),
                     saved.x.data(), rows, size, settings<T>(parameters));
  }

  /// routed [tokens, hidden] = combined W_out^T
  template <class T, class Exec>
  void leave(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<compute_t<T>, Exec> const& routed,
             Saved<T, Exec> const& saved, detail::WorkerScratch const& workers) const {
    detail::linear(exec, "kokomo::Latent::out", static_cast<compute_t<T> const*>(saved.combined.data()),
                   offset_t(routed.extent(0)), size, static_cast<T const*>(parameters.out.data()),
                   static_cast<T const*>(nullptr), offset_t(routed.extent(1)), routed.data(), Write::overwrite,
                   workers);
  }

  template <class T, class Exec>
  void leave_backward(Exec const& exec, Parameters<T, Exec> const& parameters,
                      Matrix<compute_t<T>, Exec> const& d_routed, Matrix<compute_t<T>, Exec> const& d_combined,
                      Parameters<T, Exec> const& grads, Write write, Saved<T, Exec> const& saved,
                      detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const rows = offset_t(d_routed.extent(0)), hidden = offset_t(d_routed.extent(1));
    C const* const d = d_routed.data();
    detail::linear_weight_gradient(exec, "kokomo::Latent::out_gradient", d, rows, hidden,
                                   static_cast<C const*>(saved.combined.data()), size, grads.out.data(), write,
                                   workers);
    detail::linear_input_gradient(exec, "kokomo::Latent::d_combined", d, rows, size,
                                  static_cast<T const*>(parameters.out.data()), hidden, d_combined.data(),
                                  Write::overwrite, workers);
  }

  /// Adds to dx [tokens, hidden].
  template <class T, class Exec>
  void enter_backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
                      Matrix<compute_t<T>, Exec> const& d_entered, Matrix<compute_t<T>, Exec> const& dx,
                      Parameters<T, Exec> const& grads, Write write, Saved<T, Exec> const& saved,
                      BackwardScratch<T, Exec> const& scratch, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const rows = offset_t(x.extent(0)), hidden = offset_t(x.extent(1));
    C const* d = d_entered.data();
    if (norm) {
      detail::fill(exec, "kokomo::Latent::reset", scratch.d_projected.data(), rows * size, 0);
      detail::rms_norm_backward(exec, "kokomo::Latent::norm_backward", static_cast<C const*>(saved.projected.data()), d,
                                scratch.d_projected.data(), scratch.inverse.data(), rows, size, settings<T>(parameters),
                                grads.norm.data(), write);
      d = scratch.d_projected.data();
    }
    detail::linear_weight_gradient(exec, "kokomo::Latent::in_gradient", d, rows, size, x.data(), hidden,
                                   grads.in.data(), write, workers);
    detail::linear_input_gradient(exec, "kokomo::Latent::dx", d, rows, hidden,
                                  static_cast<T const*>(parameters.in.data()), size, dx.data(), Write::add, workers);
  }

private:
  template <class T, class P> detail::RmsNormSettings<compute_t<T>> settings(P const& parameters) const {
    return {compute_t<T>(epsilon), compute_t<T>(norm_offset), 1, parameters.norm.data()};
  }
};

} // namespace kokomo::inline v0

#endif
