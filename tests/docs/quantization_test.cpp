// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <kokomo/quantization/formats.hpp>

#include <cmath>

TEST_CASE("formats") {
  // [snippet:formats]
  // GPT-OSS: the byte 0x5f holds input 0 in its low nibble, 0xf = -6, and input 1 in its high one, 5 = 3.
  std::uint8_t const byte = 0x5f, scale = 126; // 2^(126 - 127)
  REQUIRE(kokomo::Mxfp4::dequantize(byte & 15, scale, 0) == -6 * 0.5f);
  REQUIRE(kokomo::Mxfp4::dequantize(byte >> 4, scale, 0) == 3 * 0.5f);

  // Quantising a group of weights between -2 and 12.7: scale 0.1, rounded up to a bfloat16.
  using Format = kokomo::Int8<32>;
  auto const s = Format::scale_for(-2, 12.7f);
  REQUIRE((float(s) >= 0.1f && float(s) <= 0.1f * (1 + 1 / 128.0f)));
  auto const code = Format::encode(-1.23f, s, 0);
  REQUIRE(std::abs(Format::dequantize(code, s, 0) + 1.23f) <= float(s) / 2);
  // [/snippet]
}
