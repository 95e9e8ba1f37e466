// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_COMBINE_NORMALIZED_SUM_HPP
#define KOKOMO_COMBINE_NORMALIZED_SUM_HPP

#include <kokomo/combine/weighted_sum.hpp>
#include <kokomo/detail/rms_norm.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T> struct AddRoutedAndShared {
  using C = compute_t<T>;
  C const* routed;
  C const* shared;
  C* sum;
  C routed_scale;
  KOKKOS_FUNCTION void operator()(offset_t i) const {
    sum[i] = routed_scale * routed[i] + (shared != nullptr ? shared[i] : C(0));
  }
};

template <class C> struct SplitGradient {
  C const* d_sum;
  C* d_routed;
  C* d_shared;
  C routed_scale;
  KOKKOS_FUNCTION void operator()(offset_t i) const {
    d_routed[i] = routed_scale * d_sum[i];
    if (d_shared != nullptr) d_shared[i] = d_sum[i];
  }
};

} // namespace detail

/// y = RMS norm of (routed_scale * routed + shared), times (offset + weight). Keeps the sum [tokens, hidden] for
/// backward. Source: transformers axk1 (`post_mlp_layernorm`).
/// \throws kokomo::Error 106 for a negative epsilon
struct NormalizedSum {
  using slot = slots::combine;

  float routed_scale = 1;
  float epsilon = 1e-6f; ///< >= 0
  float offset = 0;      ///< added to the weight

  template <class T, class Exec> struct Parameters {
    OwnedVector<compute_t<T>, Exec> norm; ///< [hidden]

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, NormalizedSum const&, Sizes const& sizes) {
      allocate(norm, "kokomo::NormalizedSum::norm", sizes.hidden);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const { f(Name{prefix, "norm"}, norm); }
  };
  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> sum; ///< [tokens, hidden]

    Saved(detail::Arena& arena, NormalizedSum const&, Sizes const& sizes)
        : sum(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.hidden)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Matrix<compute_t<T>, Exec> dy, d_sum; // [tokens, hidden]
    Vector<compute_t<T>, Exec> inverse;   // [tokens]

    BackwardScratch(detail::Arena& arena, NormalizedSum const&, Sizes const& sizes)
        : dy(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.hidden)),
          d_sum(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.hidden)),
          inverse(arena.vector<compute_t<T>, Exec>(sizes.tokens)) {}
  };

  void check(Sizes const&) const {
    detail::require(epsilon >= 0, 106, "NormalizedSum epsilon = ", epsilon, ", expected >= 0");
  }

  template <class T, class Exec>
  void finish(Exec const& exec, Parameters<T, Exec> const& parameters, compute_t<T> const* routed,
              compute_t<T> const* shared, Matrix<T, Exec> const& y, Saved<T, Exec> const& saved) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::NormalizedSum::add", offset_t(y.size()),
                     detail::AddRoutedAndShared<T>{routed, shared, saved.sum.data(), C(routed_scale)});
    detail::rms_norm(exec, "kokomo::NormalizedSum::norm", static_cast<C const*>(saved.sum.data()), y.data(),
                     offset_t(y.extent(0)), offset_t(y.extent(1)), settings<T>(parameters));
  }

  template <class T, class Exec>
  void finish_backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& dy,
                       compute_t<T>* d_routed, compute_t<T>* d_shared, Parameters<T, Exec> const& grads, Write write,
                       Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    auto const size = offset_t(dy.size());
    detail::convert(exec, "kokomo::NormalizedSum::dy", dy.data(), scratch.dy.data(), size);
    detail::fill(exec, "kokomo::NormalizedSum::reset", scratch.d_sum.data(), size, 0);
    detail::rms_norm_backward(exec, "kokomo::NormalizedSum::norm_backward", static_cast<C const*>(saved.sum.data()),
                              static_cast<C const*>(scratch.dy.data()), scratch.d_sum.data(), scratch.inverse.data(),
                              offset_t(dy.extent(0)), offset_t(dy.extent(1)), settings<T>(parameters),
                              grads.norm.data(), write);
    detail::for_each(exec, "kokomo::NormalizedSum::split", size,
                     detail::SplitGradient<C>{scratch.d_sum.data(), d_routed, d_shared, C(routed_scale)});
  }

private:
  template <class T, class P> detail::RmsNormSettings<compute_t<T>> settings(P const& parameters) const {
    return {compute_t<T>(epsilon), compute_t<T>(offset), 1, parameters.norm.data()};
  }
};

} // namespace kokomo::inline v0

#endif
