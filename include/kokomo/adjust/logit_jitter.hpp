// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ADJUST_LOGIT_JITTER_HPP
#define KOKOMO_ADJUST_LOGIT_JITTER_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/random.hpp>
#include <kokomo/error.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// U(1 - epsilon, 1 + epsilon), the same for the same key.
template <class C>
KOKKOS_FUNCTION C jitter_factor(C epsilon, std::uint64_t seed, std::uint64_t step, offset_t token, index_t draw) {
  return C(1) + epsilon * C(2 * uniform(seed, step, token, draw) - 1);
}

/// Logits and their gradients alike.
template <class T, class Exec> struct JitterLogits {
  Routing<T, Exec> routing;
  compute_t<T> epsilon;
  std::uint64_t seed;
  Matrix<compute_t<T>, Exec> values;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      values(token, e) *= jitter_factor(epsilon, seed, routing.step, token, e);
  }
};

} // namespace detail

/// In training, multiplies each logit by its own draw of U(1 - epsilon, 1 + epsilon), keyed by seed, step, token and
/// expert. In inference nothing happens. InputJitter does the same to the router's input, which is what Switch does.
/// \throws kokomo::Error 106 unless 0 <= epsilon < 1
struct LogitJitter {
  using slot = slots::adjust;

  float epsilon = 1e-2f;
  std::uint64_t seed = 0;

  void check(Sizes const&) const {
    detail::require(epsilon >= 0 && epsilon < 1, 106, "LogitJitter epsilon = ", epsilon, ", expected 0 <= epsilon < 1");
  }

  template <class T, class Exec>
  void adjust(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Matrix<compute_t<T>, Exec> const& logits, Nothing const&) const {
    multiply(exec, routing, logits);
  }
  template <class T, class Exec>
  void adjust_backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&,
                       Nothing const&, Nothing const&, Matrix<compute_t<T>, Exec> const& d_logits, Nothing const&,
                       Write) const {
    multiply(exec, routing, d_logits);
  }

private:
  template <class T, class Exec>
  void multiply(Exec const& exec, Routing<T, Exec> const& routing, Matrix<compute_t<T>, Exec> const& values) const {
    if (routing.mode == Mode::training)
      detail::for_each(exec, "kokomo::LogitJitter", routing.sizes.tokens,
                       detail::JitterLogits<T, Exec>{routing, compute_t<T>(epsilon), seed, values});
  }
};

} // namespace kokomo::inline v0

#endif
