// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_HALF_HPP
#define KOKOMO_HALF_HPP

#include <Kokkos_Core.hpp>

#include <cstdint>

namespace kokomo::inline v0 {

/// 16-bit storage types with the layouts of checkpoint files. They store; arithmetic happens in float.
///
/// Kokkos' own half types are 4-byte floats on most hosts, which cannot view a file or a device buffer.
/// Conversion from float rounds to nearest, ties to even; NaN stays NaN; overflow becomes infinity.
struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  KOKKOS_FUNCTION bfloat16(float value) : bits(encode(value)) {}
  KOKKOS_FUNCTION operator float() const { return Kokkos::bit_cast<float>(std::uint32_t(bits) << 16); }

  KOKKOS_FUNCTION static constexpr bfloat16 from_bits(std::uint16_t raw) {
    bfloat16 h;
    h.bits = raw;
    return h;
  }

  /// The value after conversion to bfloat16 and back, in 32-bit arithmetic without a branch: vector code.
  KOKKOS_FUNCTION static float rounded(float value) { return Kokkos::bit_cast<float>(upper_half(value)); }

private:
  KOKKOS_FUNCTION static std::uint16_t encode(float value) { return std::uint16_t(upper_half(value) >> 16); }
  KOKKOS_FUNCTION static std::uint32_t upper_half(float value) {
    auto const u = Kokkos::bit_cast<std::uint32_t>(value);
    std::uint32_t const nan = 0u - std::uint32_t((u & 0x7fffffffu) > 0x7f800000u); // all ones: stays a NaN, a quiet one
    std::uint32_t const rounded = u + 0x7fffu + ((u >> 16) & 1u), quiet = u | 0x00400000u;
    return ((quiet & nan) | (rounded & ~nan)) & 0xffff0000u;
  }
};

/// IEEE binary16. See bfloat16.
struct float16 {
  std::uint16_t bits = 0;

  float16() = default;
  KOKKOS_FUNCTION float16(float value) : bits(encode(value)) {}
  KOKKOS_FUNCTION operator float() const { return decode(bits); }

  KOKKOS_FUNCTION static constexpr float16 from_bits(std::uint16_t raw) {
    float16 h;
    h.bits = raw;
    return h;
  }

private:
  KOKKOS_FUNCTION static std::uint16_t encode(float value) {
    auto const u = Kokkos::bit_cast<std::uint32_t>(value);
    std::uint32_t const sign = (u >> 16) & 0x8000u;
    std::uint32_t const magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return std::uint16_t(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return std::uint16_t(sign | 0x7c00u); // rounds to 65536 or more
    if (magnitude < 0x38800000u) {                                      // subnormal: below 2^-14
      if (magnitude < 0x33000000u) return std::uint16_t(sign);          // below 2^-25: zero
      std::uint32_t const shift = 126u - (magnitude >> 23);
      std::uint32_t const mantissa = (magnitude & 0x7fffffu) | 0x800000u;
      std::uint32_t const half = 1u << (shift - 1);
      std::uint32_t const rounded = mantissa + half - 1u + ((mantissa >> shift) & 1u);
      return std::uint16_t(sign | (rounded >> shift));
    }
    std::uint32_t const rebased = magnitude - 0x38000000u;
    return std::uint16_t(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
  }

  KOKKOS_FUNCTION static float decode(std::uint16_t bits) {
    std::uint32_t const sign = std::uint32_t(bits & 0x8000u) << 16;
    std::uint32_t const exponent = (bits >> 10) & 0x1fu;
    std::uint32_t const mantissa = bits & 0x3ffu;
    if (exponent == 31u) return Kokkos::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
    if (exponent == 0u) { // zero and subnormals: mantissa * 2^-24, exact in float
      float const magnitude = float(mantissa) * 5.9604644775390625e-8f;
      return sign != 0u ? -magnitude : magnitude;
    }
    return Kokkos::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  }
};

} // namespace kokomo::inline v0

#endif
