// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_LINEAR_SCORER_HPP
#define KOKOMO_ROUTER_LINEAR_SCORER_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/linear.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T> struct ShapeLogits {
  using C = compute_t<T>;
  C* z;
  C multiplier, softcap;
  bool round;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    C value = round ? rounded_to<T>(z[i]) : z[i];
    value *= multiplier;
    if (softcap > C(0)) value = softcap * Kokkos::tanh(value / softcap);
    z[i] = value;
  }
};

/// d_logits <- gradient of the plain product, from the logits themselves: (c tanh(u / c))' = 1 - (z / c)^2.
template <class C> struct ShapeLogitsBackward {
  C const* z;
  C* d;
  C multiplier, softcap;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    C slope = multiplier;
    if (softcap > C(0)) slope *= C(1) - (z[i] / softcap) * (z[i] / softcap);
    d[i] *= slope;
  }
};

} // namespace detail

/// Logits are a linear function of the router's input: z = W x + b, then m z, then c tanh(z / c).
///
/// Weights, products and logits are in float32 whatever the storage type (float64 for double): routing decides between
/// neighbours. `.round_logits` rounds the product to the storage type, where published code keeps it there.
/// Parameters: `weight` [logit columns, router width], `bias` [logit columns] if `.bias`.
/// \throws kokomo::Error 106 for a negative softcap
struct LinearScorer {
  bool bias = false;
  float multiplier = 1;
  float softcap = 0;         ///< c, 0: none
  bool round_logits = false; ///< round W x + b to the storage type

  template <class T, class Exec> struct Parameters {
    OwnedMatrix<compute_t<T>, Exec> weight;
    OwnedVector<compute_t<T>, Exec> bias;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, LinearScorer const& policy, Sizes const& sizes) {
      allocate(weight, "kokomo::LinearScorer::weight", sizes.columns, sizes.router_width);
      if (policy.bias) allocate(bias, "kokomo::LinearScorer::bias", sizes.columns);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "weight"}, weight);
      if (bias.extent(0) > 0) f(Name{prefix, "bias"}, bias);
    }
  };

  void check(Sizes const&) const {
    detail::require(softcap >= 0, 106, "LinearScorer softcap = ", softcap, ", expected >= 0");
  }

  /// \param[in] x [tokens, router width] of the storage type, or of the compute type
  /// \param[out] logits [tokens, columns]
  template <class T, class Exec, class X>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<X, Exec> const& x, Nothing const&,
               Matrix<compute_t<T>, Exec> const& logits, Nothing const&, Nothing const&,
               detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    detail::linear(exec, "kokomo::LinearScorer::forward", x.data(), offset_t(x.extent(0)), offset_t(x.extent(1)),
                   static_cast<C const*>(parameters.weight.data()), static_cast<C const*>(parameters.bias.data()),
                   offset_t(logits.extent(1)), logits.data(), Write::overwrite, workers);
    if (multiplier != 1 || softcap > 0 || round_logits)
      detail::for_each(exec, "kokomo::LinearScorer::shape", offset_t(logits.size()),
                       detail::ShapeLogits<T>{logits.data(), C(multiplier), C(softcap), round_logits});
  }

  /// \param[in,out] d_logits [tokens, columns], used up
  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec, class X>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<X, Exec> const& x, Nothing const&,
                Matrix<compute_t<T> const, Exec> const& logits, Matrix<compute_t<T>, Exec> const& d_logits,
                Matrix<compute_t<T>, Exec> const& dx, Nothing const&, Parameters<T, Exec> const& grads, Write write,
                Nothing const&, Nothing const&, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const rows = offset_t(x.extent(0)), width = offset_t(x.extent(1)), columns = offset_t(logits.extent(1));
    if (multiplier != 1 || softcap > 0)
      detail::for_each(exec, "kokomo::LinearScorer::shape_backward", offset_t(logits.size()),
                       detail::ShapeLogitsBackward<C>{logits.data(), d_logits.data(), C(multiplier), C(softcap)});
    C const* const d = d_logits.data();
    detail::linear_weight_gradient(exec, "kokomo::LinearScorer::weight_gradient", d, rows, columns, x.data(), width,
                                   grads.weight.data(), write, workers);
    if (bias)
      detail::linear_bias_gradient(exec, "kokomo::LinearScorer::bias_gradient", d, rows, columns, grads.bias.data(),
                                   write);
    detail::linear_input_gradient(exec, "kokomo::LinearScorer::dx", d, rows, width,
                                  static_cast<C const*>(parameters.weight.data()), columns, dx.data(), Write::add,
                                  workers);
  }
};

} // namespace kokomo::inline v0

#endif
