// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_ACTIVATION_NORM_SCORER_HPP
#define KOKOMO_ROUTER_ACTIVATION_NORM_SCORER_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/linear.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class C> struct ActivationNorms {
  C const* activations;
  offset_t width;
  C* logits;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    C sum = 0;
    for (offset_t c = 0; c < width; ++c) sum += activations[i * width + c] * activations[i * width + c];
    logits[i] = Kokkos::sqrt(sum);
  }
};

/// d_activations += dz A / |A|; zero where A is.
template <class C> struct ActivationNormsBackward {
  C const *activations, *logits, *d_logits;
  offset_t width;
  C* d_activations;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    C const factor = logits[i] > C(0) ? d_logits[i] / logits[i] : C(0);
    for (offset_t c = 0; c < width; ++c) d_activations[i * width + c] += factor * activations[i * width + c];
  }
};

} // namespace detail

/// No router: an expert is as good as its own first activations are large,
///
///     A_e = W_e x [width],   z_e = |A_e|
///
/// The activations of all experts stay in the tape, and AutonomousExperts continue from those of the chosen ones; their
/// gradient and that of the norms meet here. Reads x also where the layer has a router input of its own.
/// Parameters: `down` [E, width, router width]. Source: Autonomy-of-Experts, trestad/Autonomy-of-Experts.
/// \throws kokomo::Error 101 unless width >= 1
struct ActivationNormScorer {
  offset_t width = 0; ///< of an expert's first activations, >= 1

  template <class T, class Exec> struct Parameters {
    OwnedTensor<compute_t<T>, Exec> down;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, ActivationNormScorer const& policy, Sizes const& sizes) {
      allocate(down, "kokomo::ActivationNormScorer::down", sizes.columns, policy.width, sizes.router_width);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const { f(Name{prefix, "down"}, down); }
  };
  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> activations; ///< [tokens, columns width]

    Saved(detail::Arena& arena, ActivationNormScorer const& policy, Sizes const& sizes)
        : activations(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.columns * policy.width)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Matrix<compute_t<T>, Exec> d_activations; ///< [tokens, columns width], what the experts wrote

    BackwardScratch(detail::Arena& arena, ActivationNormScorer const& policy, Sizes const& sizes)
        : d_activations(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.columns * policy.width)) {}
  };

  void check(Sizes const&) const {
    detail::require(width >= 1, 101, "ActivationNormScorer width = ", width, ", expected at least 1");
  }

  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, columns]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
               Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved, Nothing const&,
               detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    detail::linear(exec, "kokomo::ActivationNormScorer::activations", x.data(), offset_t(x.extent(0)),
                   offset_t(x.extent(1)), static_cast<C const*>(parameters.down.data()), static_cast<C const*>(nullptr),
                   offset_t(saved.activations.extent(1)), saved.activations.data(), Write::overwrite, workers);
    detail::for_each(exec, "kokomo::ActivationNormScorer::norms", offset_t(logits.size()),
                     detail::ActivationNorms<C>{saved.activations.data(), width, logits.data()});
  }

  /// Adds the norms' gradient to what stands in scratch.d_activations: the layer puts that of the experts there.
  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
                Matrix<compute_t<T> const, Exec> const& logits, Matrix<compute_t<T>, Exec> const& d_logits,
                Matrix<compute_t<T>, Exec> const& dx, Nothing const&, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const rows = offset_t(x.extent(0)), in = offset_t(x.extent(1)), out = offset_t(saved.activations.extent(1));
    C* const d = scratch.d_activations.data();
    detail::for_each(
        exec, "kokomo::ActivationNormScorer::norms_backward", offset_t(logits.size()),
        detail::ActivationNormsBackward<C>{saved.activations.data(), logits.data(), d_logits.data(), width, d});
    detail::linear_weight_gradient(exec, "kokomo::ActivationNormScorer::gradient", static_cast<C const*>(d), rows, out,
                                   x.data(), in, grads.down.data(), write, workers);
    detail::linear_input_gradient(exec, "kokomo::ActivationNormScorer::dx", static_cast<C const*>(d), rows, in,
                                  static_cast<C const*>(parameters.down.data()), out, dx.data(), Write::add, workers);
  }
};

} // namespace kokomo::inline v0

#endif
