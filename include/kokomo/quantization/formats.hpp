// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_QUANTIZATION_FORMATS_HPP
#define KOKOMO_QUANTIZATION_FORMATS_HPP

#include <kokomo/quantization/codes.hpp>

namespace kokomo::inline v0 {

/// A quantisation format says how the weights of a matrix W [rows, columns] become codes and scales:
///
///     bits         of a code; with 4, two codes a byte, the even column in the low nibble
///     group        columns that share a scale; 0: all of a row
///     row_block    rows that share a scale
///     Scale        how a scale is stored
///     zero_points  whether each scale has a zero point, the code of weight 0, in a byte of its own
///
/// and its exact scalar arithmetic: `dequantize(code, scale, zero)`, which all kernels reproduce; `scale_for` and
/// `zero_for` a block of weights from lowest to highest, and `encode`, which rounds to the nearest code, ties to even.
/// A block with a weight that is not finite gets the scale NaN, and all of it dequantises to NaN.

/// Eight-bit integers: w = code * scale, codes -127 .. 127. Scales are bfloat16, rounded up: code * scale is exact in
/// float32, and no weight is clipped. |w - q| <= scale / 2 with scale <= (1 + 2^-7) max|w| / 127.
/// \tparam group_size columns a scale: 0 (one scale an output channel), 32 or 64
template <int group_size = 32> struct Int8 {
  static_assert(group_size == 0 || group_size == 32 || group_size == 64,
                "kokomo::Int8: a scale is for a whole row (0), 32 or 64 columns");
  using Scale = bfloat16;
  static constexpr int bits = 8;
  static constexpr int group = group_size;
  static constexpr int row_block = 1;
  static constexpr bool zero_points = false;
  static constexpr bool integers = true; ///< every code stands for an integer times the scale (times a half)

  KOKKOS_FUNCTION static float decode(std::uint8_t code) { return float(static_cast<std::int8_t>(code)); }
  KOKKOS_FUNCTION static float decode_scale(Scale scale) { return scale; }
  KOKKOS_FUNCTION static float dequantize(std::uint8_t code, Scale scale, std::uint8_t) {
    return decode(code) * decode_scale(scale);
  }

  KOKKOS_FUNCTION static Scale scale_for(float lowest, float highest) {
    return detail::bfloat16_not_below(double(highest > -lowest ? highest : -lowest) / 127);
  }
  KOKKOS_FUNCTION static std::uint8_t zero_for(float, float, Scale) { return 0; }
  KOKKOS_FUNCTION static std::uint8_t encode(float weight, Scale scale, std::uint8_t) {
    double const s = decode_scale(scale);
    return std::uint8_t(s > 0 ? detail::round_to_even(double(weight) / s) : 0);
  }
};

/// Four-bit integers in groups of 32 columns. Symmetric: w = (code - 8) * scale, codes 1 .. 15 from encode, and 0 is read
/// as -8. Scales are bfloat16, rounded up: products are exact in float32, and no weight is clipped.
/// |w - q| <= scale / 2 with scale <= (1 + 2^-7) max|w| / 7.
struct Int4 {
  using Scale = bfloat16;
  static constexpr int bits = 4;
  static constexpr int group = 32;
  static constexpr int row_block = 1;
  static constexpr bool zero_points = false;
  static constexpr bool integers = true;

  KOKKOS_FUNCTION static float decode(std::uint8_t code) { return float(int(code) - 8); }
  KOKKOS_FUNCTION static float decode_scale(Scale scale) { return scale; }
  KOKKOS_FUNCTION static float dequantize(std::uint8_t code, Scale scale, std::uint8_t) {
    return decode(code) * decode_scale(scale);
  }

  KOKKOS_FUNCTION static Scale scale_for(float lowest, float highest) {
    return detail::bfloat16_not_below(double(highest > -lowest ? highest : -lowest) / 7);
  }
  KOKKOS_FUNCTION static std::uint8_t zero_for(float, float, Scale) { return 0; }
  KOKKOS_FUNCTION static std::uint8_t encode(float weight, Scale scale, std::uint8_t) {
    double const s = decode_scale(scale);
    return std::uint8_t(8 + (s > 0 ? detail::round_to_even(double(weight) / s) : 0));
  }
};

/// Four-bit integers in groups of 32 columns, with zero points: w = (code - zero) * scale, codes and zero points 0 .. 15.
/// The range is that of the group's weights and 0; scales are bfloat16, rounded up.
/// |w - q| <= scale / 2 with scale <= (1 + 2^-7) (max(w, 0) - min(w, 0)) / 15.
struct Int4ZeroPoint {
  using Scale = bfloat16;
  static constexpr int bits = 4;
  static constexpr int group = 32;
  static constexpr int row_block = 1;
  static constexpr bool zero_points = true;
  static constexpr bool integers = true;

  /// Before the zero point is taken off.
  KOKKOS_FUNCTION static float decode(std::uint8_t code) { return float(code); }
  KOKKOS_FUNCTION static float decode_scale(Scale scale) { return scale; }
  KOKKOS_FUNCTION static float dequantize(std::uint8_t code, Scale scale, std::uint8_t zero) {
    return float(int(code) - int(zero)) * decode_scale(scale);
  }

  KOKKOS_FUNCTION static Scale scale_for(float lowest, float highest) {
    double const range = double(highest > 0 || highest != highest ? highest : 0) - double(lowest < 0 ? lowest : 0);
    return detail::bfloat16_not_below(range / 15);
  }
  KOKKOS_FUNCTION static std::uint8_t zero_for(float lowest, float, Scale scale) {
    double const s = decode_scale(scale);
    return std::uint8_t(s > 0 && lowest < 0 ? detail::round_to_even(double(-lowest) / s) : 0);
  }
  /// Rounding lowest and highest both away from 0 can reach 16; 15 is then as near.
  KOKKOS_FUNCTION static std::uint8_t encode(float weight, Scale scale, std::uint8_t zero) {
    double const s = decode_scale(scale);
    std::int32_t const code = zero + (s > 0 ? detail::round_to_even(double(weight) / s) : 0);
    return std::uint8_t(code < 0 ? 0 : code > 15 ? 15 : code);
  }
};

/// MXFP4 of the OCP microscaling formats, as GPT-OSS publishes it: E2M1 codes in groups of 32 columns, each with a power
/// of two, E8M0, as its scale. Exact in float32. `scale_for` gives the smallest scale with max|w| <= 6 scale, so that
/// nothing is clipped: |w - q| <= max(scale / 4, |w| / 5), and <= scale.
struct Mxfp4 {
  using Scale = std::uint8_t;
  static constexpr int bits = 4;
  static constexpr int group = 32;
  static constexpr int row_block = 1;
  static constexpr bool zero_points = false;
  static constexpr bool integers = true;

  KOKKOS_FUNCTION static float decode(std::uint8_t code) { return E2M1::decode(code); }
  KOKKOS_FUNCTION static float decode_scale(Scale scale) { return E8M0::decode(scale); }
  KOKKOS_FUNCTION static float dequantize(std::uint8_t code, Scale scale, std::uint8_t) {
    return decode(code) * decode_scale(scale);
  }

  KOKKOS_FUNCTION static Scale scale_for(float lowest, float highest) {
    return E8M0::encode_not_below(double(highest > -lowest ? highest : -lowest) / E2M1::largest);
  }
  KOKKOS_FUNCTION static std::uint8_t zero_for(float, float, Scale) { return 0; }
  KOKKOS_FUNCTION static std::uint8_t encode(float weight, Scale scale, std::uint8_t) {
    return E2M1::encode(scale != 255u ? double(weight) / double(decode_scale(scale)) : 0.0);
  }
};

/// Float8 E4M3 with one float32 scale a block of 128 rows and 128 columns, as DeepSeek-V3 publishes it
/// (`weight_scale_inv`, which multiplies): w = decode(code) * scale, rounded to float32 once. `scale_for` gives
/// max|w| / 448: |w - q| <= max(|w| / 16, scale / 1024) (1 + 2^-22).
struct Fp8Blocks {
  using Scale = float;
  static constexpr int bits = 8;
  static constexpr int group = 128;
  static constexpr int row_block = 128;
  static constexpr bool zero_points = false;
  static constexpr bool integers = false;

  KOKKOS_FUNCTION static float decode(std::uint8_t code) { return E4M3::decode(code); }
  KOKKOS_FUNCTION static float decode_scale(Scale scale) { return scale; }
  KOKKOS_FUNCTION static float dequantize(std::uint8_t code, Scale scale, std::uint8_t) {
    return decode(code) * decode_scale(scale);
  }

  KOKKOS_FUNCTION static Scale scale_for(float lowest, float highest) {
    return (highest > -lowest ? highest : -lowest) / E4M3::largest;
  }
  KOKKOS_FUNCTION static std::uint8_t zero_for(float, float, Scale) { return 0; }
  KOKKOS_FUNCTION static std::uint8_t encode(float weight, Scale scale, std::uint8_t) {
    return E4M3::encode(scale > 0 ? double(weight) / double(scale) : 0.0);
  }
};

} // namespace kokomo::inline v0

#endif
