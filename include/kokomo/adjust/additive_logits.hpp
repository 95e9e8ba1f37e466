// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ADJUST_ADDITIVE_LOGITS_HPP
#define KOKOMO_ADJUST_ADDITIVE_LOGITS_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct AddVector {
  Routing<T, Exec> routing;
  Vector<compute_t<T> const, Exec> delta;
  Matrix<compute_t<T>, Exec> logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (index_t e = 0; e < routing.sizes.experts; ++e) logits(token, e) += delta[e];
  }
};

/// One thread an expert sums over the tokens in their order.
template <class T, class Exec> struct AddVectorGradient {
  Routing<T, Exec> routing;
  Matrix<compute_t<T>, Exec> d_logits;
  Vector<compute_t<T>, Exec> grad;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t e) const {
    compute_t<T> sum = write == Write::add ? grad[e] : compute_t<T>(0);
    for (offset_t token = 0; token < routing.sizes.tokens; ++token) sum += d_logits(token, e);
    grad[e] = sum;
  }
};

} // namespace detail

/// A learnable vector that is added to every token's logits: z' = z + delta. Selection, gate and losses see z'.
///
/// Made for adaptation at test time: everything else stays frozen, and delta takes a few gradient steps on the context.
/// Choosing has no gradient, so delta learns from the weights of the experts that are chosen.
/// Parameters: `delta` [experts]; zero (as they are made) leaves the layer's bits as they are.
/// Source: Rewiring Experts on the Fly (arXiv 2510.14853), equations from public reviews.
struct AdditiveLogits {
  using slot = slots::adjust;

  template <class T, class Exec> struct Parameters {
    OwnedVector<compute_t<T>, Exec> delta;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, AdditiveLogits const&, Sizes const& sizes) {
      allocate(delta, "kokomo::AdditiveLogits::delta", sizes.experts);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const { f(Name{prefix, "delta"}, delta); }
  };

  template <class T, class Exec>
  void adjust(Exec const& exec, Parameters<T, Exec> const& parameters, Routing<T, Exec> const& routing, Nothing const&,
              Nothing const&, Matrix<compute_t<T>, Exec> const& logits, Nothing const&) const {
    detail::for_each(exec, "kokomo::AdditiveLogits::adjust", routing.sizes.tokens,
                     detail::AddVector<T, Exec>{routing, parameters.delta, logits});
  }

  template <class T, class Exec>
  void adjust_backward(Exec const& exec, Parameters<T, Exec> const&, Routing<T, Exec> const& routing, Nothing const&,
                       Nothing const&, Nothing const&, Matrix<compute_t<T>, Exec> const& d_logits,
                       Parameters<T, Exec> const& grads, Write write) const {
    detail::for_each(exec, "kokomo::AdditiveLogits::adjust_backward", routing.sizes.experts,
                     detail::AddVectorGradient<T, Exec>{routing, d_logits, grads.delta, write});
  }
};

} // namespace kokomo::inline v0

#endif
