// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_EXPONENTIAL_HPP
#define KOKOMO_DETAIL_EXPONENTIAL_HPP

#include <Kokkos_Core.hpp>

#include <cstdint>
#include <type_traits>

namespace kokomo::inline v0::detail {

/// exp(x) for x <= 0 (-0.f for zero), without a branch or a call, so that a compiler turns loops around it into vector code; within
/// 1e-7 of the value where that is above 1.2e-38, and that number below. NaN stays NaN.
/// Range reduction by n ln 2 in two parts, then the polynomial of Cephes' expf (Moshier).
KOKKOS_FORCEINLINE_FUNCTION float vectorizable_exp(float x) {
  // x with its sign bit set, as an integer: the lower x, the greater. Comparing floats could become a branch.
  auto const bits = Kokkos::bit_cast<std::int32_t>(x), least = Kokkos::bit_cast<std::int32_t>(-87.3f);
  auto const lowest = Kokkos::bit_cast<std::int32_t>(-Kokkos::Experimental::infinity_v<float>);
  auto const below = -std::int32_t(bits > least) & -std::int32_t(bits <= lowest);
  float const clamped = Kokkos::bit_cast<float>((least & below) | (bits & ~below));
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

/// z has its sign bit set ? otherwise : value. For float without a comparison, which a compiler may turn into a branch.
template <class C> KOKKOS_FORCEINLINE_FUNCTION C unless_negative(C z, C value, C otherwise) {
  if constexpr (std::is_same_v<C, float>) {
    auto const negative = std::uint32_t(Kokkos::bit_cast<std::int32_t>(z) >> 31);
    return Kokkos::bit_cast<float>((Kokkos::bit_cast<std::uint32_t>(otherwise) & negative) |
                                   (Kokkos::bit_cast<std::uint32_t>(value) & ~negative));
  } else {
    return z < C(0) ? otherwise : value;
  }
}

template <class C> KOKKOS_FORCEINLINE_FUNCTION C exp_of_negative(C x) {
  KOKKOS_IF_ON_HOST((if constexpr (std::is_same_v<C, float>) return vectorizable_exp(x); else return Kokkos::exp(x);))
  KOKKOS_IF_ON_DEVICE((return Kokkos::exp(x);))
}

} // namespace kokomo::inline v0::detail

#endif
