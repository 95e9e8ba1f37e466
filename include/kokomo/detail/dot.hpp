// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_DOT_HPP
#define KOKOMO_DETAIL_DOT_HPP

#include <kokomo/types.hpp>

namespace kokomo::inline v0::detail {

/// Sum of f(i) for i in [0, n) in eight interleaved sums, which compilers turn into vector code, added up in order.
template <class C, class F> KOKKOS_FUNCTION C sum_in_lanes(offset_t n, F const& f) {
  constexpr int lanes = 8;
  C partial[lanes] = {};
  offset_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int l = 0; l < lanes; ++l) partial[l] += f(i + l);
  for (int l = 0; i < n; ++i, ++l) partial[l] += f(i);
  C sum = 0;
  for (int l = 0; l < lanes; ++l) sum += partial[l];
  return sum;
}

template <class C, class A, class B> KOKKOS_FUNCTION C dot(A const* a, B const* b, offset_t n) {
  return sum_in_lanes<C>(n, [=](offset_t i) { return static_cast<C>(a[i]) * static_cast<C>(b[i]); });
}

} // namespace kokomo::inline v0::detail

#endif
