// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_EXPONENTIAL_HPP
#define KOKOMO_DETAIL_EXPONENTIAL_HPP

#include <Kokkos_Core.hpp>

#include <cstdint>
#include <type_traits>

namespace kokomo::inline v0::detail {

/// exp(x) for x <= 0, without a branch or a call, so that a compiler turns loops around it into vector code; within
/// 1e-7 of the value where that is above 1.2e-38, and that number below. NaN stays NaN.
/// Range reduction by n ln 2 in two parts, then the polynomial of Cephes' expf (Moshier).
inline float vectorizable_exp(float x) {
  float const clamped = x < -87.3f ? -87.3f : x;
  float const shifted = clamped * 1.44269504f + 12582912.f; // 1.5 * 2^23: its low bits are the nearest integer
  float const n = shifted - 12582912.f;
  float const r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  float const mantissa = p * (r * r) + r + 1.f;
  std::uint32_t const exponent = (Kokkos::bit_cast<std::uint32_t>(shifted) << 23) + 0x3f800000u;
  return mantissa * Kokkos::bit_cast<float>(exponent);
}

template <class C> KOKKOS_FUNCTION C exp_of_negative(C x) {
  KOKKOS_IF_ON_HOST((if constexpr (std::is_same_v<C, float>) return vectorizable_exp(x); else return Kokkos::exp(x);))
  KOKKOS_IF_ON_DEVICE((return Kokkos::exp(x);))
}

} // namespace kokomo::inline v0::detail

#endif
