// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_QUANTIZATION_CODES_HPP
#define KOKOMO_QUANTIZATION_CODES_HPP

#include <kokomo/half.hpp>

#include <cstdint>

namespace kokomo::inline v0 {

namespace detail {

/// The integer nearest to a number of less than 2^31 in size; of two as near, the even one. 0 for NaN.
KOKKOS_FUNCTION inline std::int32_t round_to_even(double value) {
  if (!(value > -2147483648.0 && value < 2147483647.0)) return 0;
  double const below = Kokkos::floor(value), rest = value - below;
  auto const integer = static_cast<std::int32_t>(below);
  return integer + (rest > 0.5 || (rest == 0.5 && (integer & 1) != 0) ? 1 : 0);
}

/// 2^exponent for exponents of normal doubles.
KOKKOS_FUNCTION inline double power_of_two(int exponent) {
  return Kokkos::bit_cast<double>(std::uint64_t(exponent + 1023) << 52);
}

/// floor(log2(magnitude)) of a normal double.
KOKKOS_FUNCTION inline int exponent_of(double magnitude) {
  return int(Kokkos::bit_cast<std::uint64_t>(magnitude) >> 52) - 1023;
}

/// The code, without its sign, of the small float nearest to a magnitude, ties to the even code: `mantissa` bits below an
/// exponent field whose value 0 means subnormals of 2^lowest. What is too large becomes `largest`.
KOKKOS_FUNCTION inline std::uint8_t encode_small_float(double magnitude, int mantissa, int lowest, int largest) {
  if (magnitude >= 65536.0) return std::uint8_t(largest);
  int const exponent = magnitude < power_of_two(lowest) ? lowest : exponent_of(magnitude);
  std::int32_t const steps = round_to_even(magnitude * power_of_two(mantissa - exponent));
  std::int32_t const code = ((exponent - lowest) << mantissa) + steps; // a carry reaches the exponent by itself
  return std::uint8_t(code < largest ? code : largest);
}

/// The smallest bfloat16 that is not below a non-negative number.
KOKKOS_FUNCTION inline bfloat16 bfloat16_not_below(double value) {
  bfloat16 rounded(static_cast<float>(value));
  if (double(float(rounded)) < value) ++rounded.bits; // the next larger one: bits of positive floats are in order
  return rounded;
}

} // namespace detail

/// Float8 E4M3 of the "fn" kind (OCP 8-bit floating point): sign, 4 bits of exponent with bias 7, 3 of mantissa. No
/// infinities; 0x7f and 0xff are NaN, 448 is the largest number and 2^-9 the smallest.
struct E4M3 {
  static constexpr float largest = 448;

  KOKKOS_FUNCTION static float decode(std::uint8_t code) {
    std::uint32_t const magnitude = code & 0x7fu;
    if (magnitude == 0x7fu) return Kokkos::bit_cast<float>(0x7fc00000u);
    float const value = magnitude < 8u ? float(magnitude) * 0.001953125f // subnormal: mantissa * 2^-9
                                       : Kokkos::bit_cast<float>((magnitude + (120u << 3)) << 20); // bias 7 -> 127
    return (code & 0x80u) != 0u ? -value : value;
  }
  /// The nearest code, ties to even; beyond 448 the largest number.
  KOKKOS_FUNCTION static std::uint8_t encode(double value) {
    if (value != value) return 0x7fu;
    auto const sign = std::uint8_t(value < 0 ? 0x80u : 0u);
    return std::uint8_t(sign | detail::encode_small_float(value < 0 ? -value : value, 3, -6, 0x7e));
  }
};

/// Float4 E2M1 (OCP microscaling formats): 0, 0.5, 1, 1.5, 2, 3, 4, 6 by the low three bits, bit 3 the sign.
struct E2M1 {
  static constexpr float largest = 6;

  KOKKOS_FUNCTION static float decode(std::uint8_t code) {
    std::uint32_t const magnitude = code & 7u;
    float const value =
        magnitude < 2u ? 0.5f * float(magnitude) : Kokkos::bit_cast<float>((magnitude + (126u << 1)) << 22);
    return (code & 8u) != 0u ? -value : value;
  }
  /// The nearest code, ties to even; beyond 6 the largest number.
  KOKKOS_FUNCTION static std::uint8_t encode(double value) {
    auto const sign = std::uint8_t(value < 0 ? 8u : 0u);
    return std::uint8_t(sign | detail::encode_small_float(value < 0 ? -value : value, 1, 0, 7));
  }
};

/// A power of two as a scale, E8M0 (OCP microscaling formats): 2^(code - 127); 255 is NaN.
struct E8M0 {
  KOKKOS_FUNCTION static float decode(std::uint8_t code) {
    if (code == 255u) return Kokkos::bit_cast<float>(0x7fc00000u);
    return Kokkos::bit_cast<float>(code == 0u ? 0x00400000u : std::uint32_t(code) << 23); // 2^-127 is subnormal
  }
  /// The smallest power of two that is not below a non-negative number up to 2^127; NaN for NaN.
  KOKKOS_FUNCTION static std::uint8_t encode_not_below(double value) {
    if (!(value <= detail::power_of_two(127))) return 255u;
    if (value <= detail::power_of_two(-127)) return 0u;
    int const exponent = detail::exponent_of(value);
    return std::uint8_t(exponent + (value > detail::power_of_two(exponent) ? 1 : 0) + 127);
  }
};

} // namespace kokomo::inline v0

#endif
