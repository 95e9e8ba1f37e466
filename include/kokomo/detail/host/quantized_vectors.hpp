// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_QUANTIZED_VECTORS_HPP
#define KOKOMO_DETAIL_HOST_QUANTIZED_VECTORS_HPP

#include <kokomo/detail/host/microkernel.hpp>
#include <kokomo/quantization/tensor.hpp>

#include <cstring>

/// Codes to vectors of float, 32 columns of a row at a time.

namespace kokomo::inline v0::detail::host {

/// Columns that are decoded together, which no group divides.
inline constexpr offset_t decoded_columns = 32;

#if KOKOMO_HOST_X86
#define KOKOMO_AVX2_INLINE KOKOMO_AVX2 inline __attribute__((always_inline))

/// `prepare` loads tables; then `decode` gives 32 columns as four vectors, `factor` times too small. `column(i)` says which
/// column of them element i is. `invalid` collects codes that are NaN.
template <class Format> struct Avx2Decoder;

template <int group> struct Avx2Decoder<Int8<group>> {
  static constexpr float factor = 1;
  static constexpr int column(int i) { return i; }

  KOKOMO_AVX2_INLINE void prepare() {}
  KOKOMO_AVX2_INLINE void decode(std::uint8_t const* codes, __m256 (&v)[4]) {
    for (int i = 0; i < 4; ++i)
      v[i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(codes + 8 * i))));
  }
  KOKOMO_AVX2_INLINE bool invalid() const { return false; }
};

/// Four-bit codes are looked up: both bytes of the bfloat16 of each. The even columns of 32 stand in the low nibbles of
/// 16 bytes, the odd ones in the high nibbles, and two bfloat16 that share 32 bits become floats by a shift and a mask.
template <class Format> struct Avx2NibbleDecoder {
  static constexpr float factor = 1;
  static constexpr int column(int i) { return i / 16 * 16 + i % 4 * 4 + i / 4 % 2 + i / 8 % 2 * 2; }

  __m256i upper, lower;

  KOKOMO_AVX2_INLINE void prepare() {
    alignas(16) std::uint8_t table[2][16];
    for (int code = 0; code < 16; ++code) {
      auto const bits = Kokkos::bit_cast<std::uint32_t>(Format::decode(std::uint8_t(code)));
      table[0][code] = std::uint8_t(bits >> 24), table[1][code] = std::uint8_t(bits >> 16);
    }
    upper = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<__m128i const*>(table[0])));
    lower = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<__m128i const*>(table[1])));
  }
  KOKOMO_AVX2_INLINE void decode(std::uint8_t const* codes, __m256 (&v)[4]) {
    __m256i const both = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<__m128i const*>(codes)));
    __m256i const split = _mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4));
    __m256i const nibbles = _mm256_and_si256(split, _mm256_set1_epi8(15));
    __m256i const high = _mm256_shuffle_epi8(upper, nibbles), low = _mm256_shuffle_epi8(lower, nibbles);
    __m256i const pairs[2] = {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
    for (int i = 0; i < 2; ++i) {
      v[2 * i] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs[i], 16));
      v[2 * i + 1] = _mm256_castsi256_ps(_mm256_and_si256(pairs[i], _mm256_set1_epi32(int(0xffff0000))));
    }
  }
  KOKOMO_AVX2_INLINE bool invalid() const { return false; }
};
template <> struct Avx2Decoder<Int4> : Avx2NibbleDecoder<Int4> {};
template <> struct Avx2Decoder<Int4ZeroPoint> : Avx2NibbleDecoder<Int4ZeroPoint> {};
template <> struct Avx2Decoder<Mxfp4> : Avx2NibbleDecoder<Mxfp4> {};

/// E4M3 with its exponent shifted by one bit is a float16 of a bias that is 8 larger, subnormals included; NaN is not.
template <> struct Avx2Decoder<Fp8Blocks> {
  static constexpr float factor = 256;
  static constexpr int column(int i) { return i; }

  __m256i nan;

  KOKOMO_AVX2_INLINE void prepare() { nan = _mm256_setzero_si256(); }
  KOKOMO_AVX2_INLINE void decode(std::uint8_t const* codes, __m256 (&v)[4]) {
    __m256i const x = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(codes)), magnitude = _mm256_set1_epi8(127);
    nan = _mm256_or_si256(nan, _mm256_cmpeq_epi8(_mm256_and_si256(x, magnitude), magnitude));
    __m256i const zero = _mm256_setzero_si256();
    __m256i const wide[2] = {_mm256_unpacklo_epi8(zero, x), _mm256_unpackhi_epi8(zero, x)};
    for (int i = 0; i < 2; ++i) { // the sign comes twice, and stays once
      __m256i const half = _mm256_and_si256(_mm256_srai_epi16(wide[i], 1), _mm256_set1_epi16(short(0xbfff)));
      v[i] = _mm256_cvtph_ps(_mm256_castsi256_si128(half));
      v[i + 2] = _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1));
    }
  }
  KOKOMO_AVX2_INLINE bool invalid() const { return _mm256_movemask_epi8(nan) != 0; }
};

KOKOMO_AVX2_INLINE void transpose(__m256 (&v)[8]) {
  __m256 w[8];
  for (int i = 0; i < 8; i += 2)
    w[i] = _mm256_unpacklo_ps(v[i], v[i + 1]), w[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  __m256 u[8];
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      u[i + 2 * j] = _mm256_shuffle_ps(w[i + j], w[i + j + 2], 0x44);
      u[i + 2 * j + 1] = _mm256_shuffle_ps(w[i + j], w[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

/// to[i * pitch + j] = weight (row + j, k + i) for 8 rows and `blocks` times 32 columns from k on, a multiple of 32.
/// Returns false if a code was NaN: what it wrote is then wrong.
template <class Format>
KOKOMO_AVX2 bool dequantize_octet(QuantizedRef<Format> const& w, offset_t group, offset_t row, offset_t k,
                                  offset_t blocks, float* to, offset_t pitch) {
  using Decoder = Avx2Decoder<Format>;
  Decoder decoder;
  decoder.prepare();
  std::uint8_t const* codes[8];
  offset_t scales[8];
  for (int j = 0; j < 8; ++j) {
    codes[j] = w.row(group, row + j) + k * Format::bits / 8;
    scales[j] = w.first_scale(group, row + j);
  }
  alignas(32) float decoded[4][8][8]; // vector, row, lane
  for (offset_t b = 0; b < blocks; ++b, k += decoded_columns, to += decoded_columns * pitch) {
    for (int j = 0; j < 8; ++j) {
      __m256 v[4];
      decoder.decode(codes[j] + b * decoded_columns * Format::bits / 8, v);
      offset_t const at = scales[j] + w.group_of(k);
      __m256 const scale = _mm256_set1_ps(Format::decode_scale(w.scales[at]));
      for (int i = 0; i < 4; ++i) {
        if constexpr (Format::zero_points) v[i] = _mm256_sub_ps(v[i], _mm256_set1_ps(float(w.zeros[at])));
        if constexpr (Decoder::factor != 1) v[i] = _mm256_mul_ps(v[i], _mm256_set1_ps(Decoder::factor));
        _mm256_store_ps(decoded[i][j], _mm256_mul_ps(v[i], scale));
      }
    }
    for (int i = 0; i < 4; ++i) {
      __m256 v[8];
      for (int j = 0; j < 8; ++j) v[j] = _mm256_load_ps(decoded[i][j]);
      transpose(v);
      for (int j = 0; j < 8; ++j) _mm256_storeu_ps(to + Decoder::column(8 * i + j) * pitch, v[j]);
    }
  }
  return !decoder.invalid();
}
#endif

} // namespace kokomo::inline v0::detail::host

#endif
