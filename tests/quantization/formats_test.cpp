// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <kokomo/quantization/tensor.hpp>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

namespace {

using namespace kokomo;
using Exec = Kokkos::DefaultHostExecutionSpace;

double e4m3(int code) { // the formats' definitions, in double
  int const exponent = code >> 3 & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<double>::quiet_NaN();
  double const value = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 128 ? -value : value;
}
double e2m1(int code) {
  constexpr double values[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return code & 8 ? -values[code & 7] : values[code & 7];
}

TEST_CASE("codes of small floats decode as their formats say") {
  for (int code = 0; code < 256; ++code) {
    INFO("code " << code);
    double const value = E4M3::decode(std::uint8_t(code));
    if (std::isnan(e4m3(code)))
      REQUIRE(std::isnan(value));
    else
      REQUIRE((value == e4m3(code) && std::signbit(value) == (code >= 128)));
    double const scale = E8M0::decode(std::uint8_t(code));
    REQUIRE((code == 255 ? std::isnan(scale) : scale == std::ldexp(1.0, code - 127)));
  }
  for (int code = 0; code < 16; ++code) REQUIRE(double(E2M1::decode(std::uint8_t(code))) == e2m1(code));
}

TEST_CASE("numbers become the nearest code, ties the even one") {
  // codes and values that ml_dtypes 0.6.0 gives for float8_e4m3fn and float4_e2m1fn
  struct {
    double value;
    int code;
  } const e4m3_cases[] = {{0.0009765625, 0}, {0.00146484375, 1}, {0.0029296875, 2}, {17, 88},
                          {18, 89},          {19, 90},           {21, 90},          {23, 92},
                          {447, 126},        {0.017, 9},         {-3.3, 197},       {0.0151, 8}};
  for (auto const& [value, code] : e4m3_cases) REQUIRE(int(E4M3::encode(value)) == code);
  double const e2m1_cases[][2] = {{.25, 0}, {.75, 1},  {1.25, 1},  {1.75, 2},  {2.5, 2}, {3.5, 4},
                                  {5, 4},   {0.24, 0}, {0.26, .5}, {-5.1, -6}, {-0.2, 0}};
  for (auto const& [value, nearest] : e2m1_cases) REQUIRE(double(E2M1::decode(E2M1::encode(value))) == nearest);
  REQUIRE(E4M3::encode(1e9) == 0x7e);
  REQUIRE(E4M3::encode(std::nan("")) == 0x7f);
  REQUIRE(E2M1::encode(-100) == 15);
  // every code is its own nearest, and the middle of two neighbours becomes the even code
  for (int code = 0; code < 126; ++code) {
    REQUIRE(int(E4M3::encode(e4m3(code))) == code);
    REQUIRE(int(E4M3::encode((e4m3(code) + e4m3(code + 1)) / 2)) == code + code % 2);
  }
  for (int code = 0; code < 7; ++code) REQUIRE(int(E2M1::encode((e2m1(code) + e2m1(code + 1)) / 2)) == code + code % 2);
}

TEST_CASE("power-of-two scales are the smallest that are not below") {
  for (int e = -126; e <= 126; ++e) {
    double const power = std::ldexp(1.0, e);
    REQUIRE(int(E8M0::encode_not_below(power)) == e + 127);
    REQUIRE(int(E8M0::encode_not_below(power * (1 + 1e-9))) == e + 128);
    REQUIRE(int(E8M0::encode_not_below(power * (1 - 1e-9))) == e + 127);
  }
  REQUIRE(E8M0::encode_not_below(0) == 0);
  REQUIRE(E8M0::encode_not_below(1e-300) == 0);
  REQUIRE(E8M0::encode_not_below(std::nan("")) == 255);
}

TEST_CASE("dequantisation is code, zero point and scale, exactly") {
  for (int code = 0; code < 256; ++code)
    for (float const s : {0.0078125f, 0.00830078125f, 3.0f}) { // scales that bfloat16 holds
      auto const c = std::uint8_t(code);
      REQUIRE(double(Int8<>::dequantize(c, s, 0)) == double(code < 128 ? code : code - 256) * double(s));
      if (!std::isnan(e4m3(code))) REQUIRE(Fp8Blocks::dequantize(c, 0.1f * s, 0) == float(e4m3(code)) * (0.1f * s));
      if (code >= 16) continue;
      REQUIRE(double(Int4::dequantize(c, s, 0)) == (code - 8) * double(s));
      for (int zero = 0; zero < 16; ++zero)
        REQUIRE(double(Int4ZeroPoint::dequantize(c, s, std::uint8_t(zero))) == (code - zero) * double(s));
      for (int e : {0, 1, 100, 127, 200})
        REQUIRE(double(Mxfp4::dequantize(c, std::uint8_t(e), 0)) == e2m1(code) * std::ldexp(1.0, e - 127));
    }
  REQUIRE(std::isnan(Mxfp4::dequantize(2, 255, 0)));
}

/// The bound of |w - q| that a format's page states.
template <class Format> double bound(double w, double scale) {
  if constexpr (std::is_same_v<Format, Mxfp4>)
    return std::min(scale, std::max(scale / 4, std::abs(w) / 5));
  else if constexpr (std::is_same_v<Format, Fp8Blocks>)
    return std::max(std::abs(w) / 16, scale / 1024) * (1 + std::ldexp(1.0, -22));
  else
    return scale / 2 * (1 + 1e-12); // the quotient is rounded in double
}
/// And that of the scale, for a block of weights between lowest and highest.
template <class Format> double largest_scale(double lowest, double highest) {
  double const size = std::max(std::abs(lowest), std::abs(highest));
  if constexpr (std::is_same_v<Format, Mxfp4>)
    return 2 * size / 6 * (1 - 1e-12); // the power of two above
  else if constexpr (std::is_same_v<Format, Fp8Blocks>)
    return size / 448 * (1 + 1e-7);
  else if constexpr (Format::zero_points)
    return (std::max(highest, 0.0) - std::min(lowest, 0.0)) / 15 * (1 + std::ldexp(1.0, -7));
  else
    return size / (Format::bits == 8 ? 127 : 7) * (1 + std::ldexp(1.0, -7));
}

template <class Format> void check_quantized(offset_t rows, offset_t columns, float size, float offset, unsigned seed) {
  INFO(rows << " x " << columns << ", " << Format::bits << " bits, group " << Format::group << ", size " << size);
  constexpr offset_t experts = 2;
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(offset, 1);
  std::vector<float> w(std::size_t(experts * rows * columns));
  for (float& value : w) value = size * normal(engine);
  Exec const exec;
  QuantizedTensor<Format, Exec> const q(Allocator<Exec>(exec), "q", experts, 1, rows, columns);
  detail::WeightRef<float const> const from{w.data(), rows * columns, columns, 1};
  q.quantize(exec, from, rows, columns);
  std::vector<float> back(w.size());
  q.dequantize(exec, detail::WeightRef<float>{back.data(), rows * columns, columns, 1}, rows, columns);
  exec.fence();

  // the layout, read by hand
  offset_t const width = Format::group == 0 ? columns : Format::group, groups = (columns + width - 1) / width;
  REQUIRE(offset_t(q.codes.extent(2)) == (columns * Format::bits + 7) / 8);
  REQUIRE(offset_t(q.scales.extent(2)) == groups);
  for (offset_t e = 0; e < experts; ++e)
    for (offset_t n = 0; n < rows; ++n)
      for (offset_t k = 0; k < columns; ++k) {
        offset_t const block = n / Format::row_block, group = k / width;
        int code = q.codes(e, n, k * Format::bits / 8);
        if (Format::bits == 4) code = k % 2 == 0 ? code & 15 : code >> 4;
        auto const scale = q.scales(e, block, group);
        auto const zero = Format::zero_points ? q.zeros(e, block, group) : std::uint8_t(0);
        auto const at = std::size_t((e * rows + n) * columns + k);
        REQUIRE(back[at] == Format::dequantize(std::uint8_t(code), scale, zero));
        double const s = Format::decode_scale(scale);
        REQUIRE(std::abs(double(w[at]) - double(back[at])) <= bound<Format>(w[at], s));
      }
  for (offset_t e = 0; e < experts; ++e)
    for (offset_t n = 0; n < rows; n += Format::row_block)
      for (offset_t k = 0; k < columns; k += width) {
        double lowest = std::numeric_limits<double>::infinity(), highest = -lowest;
        for (offset_t i = n; i < std::min(rows, n + Format::row_block); ++i)
          for (offset_t j = k; j < std::min(columns, k + width); ++j) {
            double const value = w[std::size_t((e * rows + i) * columns + j)];
            lowest = std::min(lowest, value), highest = std::max(highest, value);
          }
        double const scale = Format::decode_scale(q.scales(e, n / Format::row_block, k / width));
        REQUIRE(scale <= largest_scale<Format>(lowest, highest));
      }
}

TEMPLATE_TEST_CASE("quantised weights are within the stated bound", "", Int8<0>, Int8<32>, Int8<64>, Int4,
                   Int4ZeroPoint, Mxfp4, Fp8Blocks) {
  unsigned seed = 1;
  for (float const size : {1.0f, 0.02f, 1e-12f, 1e12f}) {
    check_quantized<TestType>(3, 96, size, 0, ++seed);
    check_quantized<TestType>(2, 37, size, 0.5f, ++seed); // an odd number of columns, and a group that is not full
    check_quantized<TestType>(1, 1, size, -2, ++seed);
  }
  check_quantized<TestType>(150, 140, 0.02f, 0, ++seed); // more than one block of rows
}

TEMPLATE_TEST_CASE("zeros stay zero, and a weight that is not finite shows", "", Int8<0>, Int4, Int4ZeroPoint, Mxfp4,
                   Fp8Blocks) {
  std::vector<float> w(3 * 32, 0.0f);
  w[32] = std::numeric_limits<float>::infinity(), w[64] = std::nan("");
  std::vector<float> back(32);
  Exec const exec;
  for (std::size_t row = 0; row < 3; ++row) {
    QuantizedTensor<TestType, Exec> const q(Allocator<Exec>(exec), "q", 1, 1, 1, 32);
    q.quantize(exec, detail::WeightRef<float const>{w.data() + 32 * row, 32, 32, 1}, 1, 32);
    q.dequantize(exec, detail::WeightRef<float>{back.data(), 32, 32, 1}, 1, 32);
    exec.fence();
    for (float const value : back) REQUIRE((row == 0 ? value == 0.0f : std::isnan(value)));
  }
}

TEST_CASE("ties go to the even code") {
  // scale 1: 127, 7, 15 and 6 are the largest codes
  REQUIRE(float(Int8<>::scale_for(-127, 3)) == 1.0f);
  REQUIRE(int(Int8<>::encode(2.5f, 1.0f, 0)) == 2);
  REQUIRE(int(std::int8_t(Int8<>::encode(-3.5f, 1.0f, 0))) == -4);
  REQUIRE(int(Int4::encode(-2.5f, 1.0f, 0)) == 8 - 2);
  REQUIRE(float(Int4ZeroPoint::scale_for(-1.5f, 13.5f)) == 1.0f);
  REQUIRE(int(Int4ZeroPoint::zero_for(-1.5f, 13.5f, 1.0f)) == 2);
  REQUIRE(int(Int4ZeroPoint::encode(13.5f, 1.0f, 2)) == 15); // 14 + 2 does not exist, 13 is as near
  REQUIRE(int(Int4ZeroPoint::encode(-1.5f, 1.0f, 2)) == 0);
  REQUIRE(int(Mxfp4::scale_for(-6, 1)) == 127);
  REQUIRE(int(Mxfp4::scale_for(-6.01f, 1)) == 128);
}

} // namespace
