// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_SPACE_NORMALIZED_INPUT_HPP
#define KOKOMO_SPACE_NORMALIZED_INPUT_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/rms_norm.hpp>
#include <kokomo/error.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {

/// Experts read an RMS norm of the layer's input: x' = x (mean(x^2) + epsilon)^(-1/2) weight. The router, and shared
/// experts, see x itself. Source: transformers gemma4 (`pre_feedforward_layernorm_2`).
/// \throws kokomo::Error 106 for a negative epsilon
struct NormalizedInput {
  using slot = slots::space;

  float epsilon = 1e-6f; ///< >= 0

  template <class T, class Exec> struct Parameters {
    OwnedVector<compute_t<T>, Exec> norm; ///< [hidden]

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, NormalizedInput const&, Sizes const& sizes) {
      allocate(norm, "kokomo::NormalizedInput::norm", sizes.hidden);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const { f(Name{prefix, "norm"}, norm); }
  };
  template <class T, class Exec> struct Saved {
    Matrix<T, Exec> x; ///< [tokens, hidden] what the experts read

    Saved(detail::Arena& arena, NormalizedInput const&, Sizes const& sizes)
        : x(arena.matrix<T, Exec>(sizes.tokens, sizes.hidden)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Vector<compute_t<T>, Exec> inverse; // [tokens]

    BackwardScratch(detail::Arena& arena, NormalizedInput const&, Sizes const& sizes)
        : inverse(arena.vector<compute_t<T>, Exec>(sizes.tokens)) {}
  };

  offset_t width(offset_t hidden) const { return hidden; }
  void check(Sizes const&) const {
    detail::require(epsilon >= 0, 106, "NormalizedInput epsilon = ", epsilon, ", expected >= 0");
  }

  template <class T, class Exec>
  void enter(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
             Saved<T, Exec> const& saved, detail::WorkerScratch const&) const {
    detail::rms_norm(exec, "kokomo::NormalizedInput::enter", x.data(), saved.x.data(), offset_t(x.extent(0)),
                     offset_t(x.extent(1)), settings<T>(parameters));
  }

  /// Adds to dx [tokens, hidden].
  template <class T, class Exec>
  void enter_backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
                      Matrix<compute_t<T>, Exec> const& d_entered, Matrix<compute_t<T>, Exec> const& dx,
                      Parameters<T, Exec> const& grads, Write write, Saved<T, Exec> const&,
                      BackwardScratch<T, Exec> const& scratch, detail::WorkerScratch const&) const {
    detail::rms_norm_backward(exec, "kokomo::NormalizedInput::enter_backward", x.data(),
                              static_cast<compute_t<T> const*>(d_entered.data()), dx.data(), scratch.inverse.data(),
                              offset_t(x.extent(0)), offset_t(x.extent(1)), settings<T>(parameters), grads.norm.data(),
                              write);
  }

private:
  template <class T, class P> detail::RmsNormSettings<compute_t<T>> settings(P const& parameters) const {
    return {compute_t<T>(epsilon), 0, 1, parameters.norm.data()};
  }
};

} // namespace kokomo::inline v0

#endif
