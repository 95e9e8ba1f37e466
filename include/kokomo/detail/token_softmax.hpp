// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_TOKEN_SOFTMAX_HPP
#define KOKOMO_DETAIL_TOKEN_SOFTMAX_HPP

#include <kokomo/detail/sequences.hpp>
#include <kokomo/routing.hpp>

namespace kokomo::inline v0::detail {

/// The softmax of an expert's logits over the tokens of a sequence. NaN counts as -infinity; masked tokens are not among
/// them.
template <class T, class Exec> struct TokenSoftmaxSums {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Matrix<C const, Exec> logits;
  Sequences sequences;

  /// log of the sum of exp(z) of one expert over one sequence; -infinity where there is nothing.
  KOKKOS_FUNCTION C log_sum(offset_t sequence, index_t e) const {
    C const nothing = -Kokkos::Experimental::infinity_v<C>;
    C max = nothing, sum = 0;
    for (offset_t t = sequences.begin(sequence); t < sequences.end(sequence); ++t)
      if (!routing.masked(t) && logits(t, e) > max) max = logits(t, e);
    if (!(max > nothing)) return nothing;
    for (offset_t t = sequences.begin(sequence); t < sequences.end(sequence); ++t)
      if (!routing.masked(t) && logits(t, e) > nothing) sum += Kokkos::exp(logits(t, e) - max);
    return max + Kokkos::log(sum);
  }
  /// exp(z - log_sum) of a token that takes part
  KOKKOS_FUNCTION C share(offset_t token, index_t e, C log_sum) const {
    C const z = logits(token, e);
    return z > -Kokkos::Experimental::infinity_v<C> ? Kokkos::exp(z - log_sum) : C(0);
  }
};

} // namespace kokomo::inline v0::detail

#endif
