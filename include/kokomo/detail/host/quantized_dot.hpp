// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_QUANTIZED_DOT_HPP
#define KOKOMO_DETAIL_HOST_QUANTIZED_DOT_HPP

#include <kokomo/detail/host/product.hpp>
#include <kokomo/detail/host/quantized_vectors.hpp>

#include <limits>

/// Products of a few rows with quantised weights: each row of weights is read once and multiplied from registers, with up
/// to `dot_rows` rows at a time. What a decoding model spends its time on.

namespace kokomo::inline v0::detail::host {

inline constexpr int dot_rows = 4;

/// The rows of a product as the kernels read them: blocks of block_depth<float> columns, each with all rows one after the
/// other; the columns of each 32 in the decoder's order, and zeros behind the last.
struct DotOperand {
  float const* rows; ///< row i of block b at (b * height + i) * block_depth
  float const* sums; ///< [height, blocks of 32] sums of a row's 32 columns, for zero points
  offset_t height, depth;

  static offset_t blocks(offset_t depth) { return divide_up(depth, decoded_columns); }
  /// Floats that an operand takes, without its sums.
  static offset_t size(offset_t height, offset_t depth) {
    return height * divide_up(depth, block_depth<float>) * block_depth<float>;
  }
};

#if KOKOMO_HOST_X86
/// 16 columns of a row in the order in which four-bit codes are decoded: 0, 4, 8, 12, 1, 5, ...
inline void exchange_columns(float* row) {
  auto a = Quad<float>::load(row), b = Quad<float>::load(row + 4), c = Quad<float>::load(row + 8),
       d = Quad<float>::load(row + 12);
  transpose(a, b, c, d);
  a.store(row), b.store(row + 4), c.store(row + 8), d.store(row + 12);
}
inline float sum_of_columns(float const* row) {
  auto sum = Quad<float>::load(row);
  for (int i = 4; i < int(decoded_columns); i += 4) sum = sum + Quad<float>::load(row + i);
  float lane[4];
  sum.store(lane);
  return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

/// Packs rows of `left` into `memory`, size() floats, and their sums.
template <class Format, class Left>
DotOperand pack_dot_operand(Left const& left, Range rows, offset_t depth, float* memory, float* sums) {
  offset_t const height = rows.size();
  float* block = memory;
  for (offset_t k = 0; k < depth; k += block_depth<float>, block += height * block_depth<float>) {
    offset_t const steps = std::min(block_depth<float>, depth - k);
    left.pack_rows(rows.first, height, k, steps, block, block_depth<float>);
    for (offset_t i = 0; i < height; ++i) {
      float* const row = block + i * block_depth<float>;
      std::fill_n(row + steps, divide_up(steps, decoded_columns) * decoded_columns - steps, 0.f);
      for (offset_t first = 0; first < steps; first += decoded_columns) {
        if (Format::zero_points)
          sums[i * DotOperand::blocks(depth) + (k + first) / decoded_columns] = sum_of_columns(row + first);
        if (Avx2Decoder<Format>::column(1) != 1) {
          exchange_columns(row + first);
          exchange_columns(row + first + decoded_columns / 2);
        }
      }
    }
  }
  return {memory, sums, height, depth};
}

KOKOMO_AVX2_INLINE float sum_of(__m256 v) {
  __m128 const quad = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  __m128 const pair = _mm_add_ps(quad, _mm_movehl_ps(quad, quad));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
}

/// Eight scales as floats.
KOKOMO_AVX2_INLINE __m256 load_scales(bfloat16 const* p) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p))), 16));
}
KOKOMO_AVX2_INLINE __m256 load_scales(float const* p) {
  return _mm256_loadu_ps(p);
}
KOKOMO_AVX2_INLINE __m256 load_bytes(std::uint8_t const* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(p))));
}
KOKOMO_AVX2_INLINE __m256 load_scales(std::uint8_t const* p) { // E8M0: 0 is 2^-127, a subnormal, and 255 NaN
  __m256i const bits =
      _mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(p))), 23);
  __m256i const infinity = _mm256_set1_epi32(0x7f800000), half = _mm256_set1_epi32(0x00400000);
  __m256i const nan = _mm256_and_si256(_mm256_cmpeq_epi32(bits, infinity), half);
  return _mm256_castsi256_ps(_mm256_or_si256(_mm256_max_epi32(bits, half), nan));
}

/// The scales of a row as floats, `factor` times, and what a zero point takes off a sum of activations.
template <class Format>
KOKOMO_AVX2 void decode_scales(QuantizedRef<Format> const& w, offset_t first, offset_t count, float* scales,
                               float* offsets, float factor) {
  offset_t i = 0;
  for (; i + 8 <= count; i += 8) {
    __m256 const s = _mm256_mul_ps(load_scales(w.scales + first + i), _mm256_set1_ps(factor));
    _mm256_storeu_ps(scales + i, s);
    if constexpr (Format::zero_points) _mm256_storeu_ps(offsets + i, _mm256_mul_ps(s, load_bytes(w.zeros + first + i)));
  }
  for (; i < count; ++i) {
    scales[i] = Format::decode_scale(w.scales[first + i]) * factor;
    if constexpr (Format::zero_points) offsets[i] = scales[i] * float(w.zeros[first + i]);
  }
}
/// sum_i a[i] * b[i]
KOKOMO_AVX2_INLINE float dot_floats(float const* a, float const* b, offset_t count) {
  __m256 total = _mm256_setzero_ps();
  offset_t i = 0;
  for (; i + 8 <= count; i += 8) total = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), total);
  float sum = sum_of(total);
  for (; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

/// total[i] += scale * sum of the products of 32 columns of row i with their weights.
template <int half, class Decoder, int rows>
KOKOMO_AVX2_INLINE void add_products(Decoder& decoder, std::uint8_t const* codes, float const* columns,
                                     float const* scale, __m256 (&total)[rows][2]) {
  __m256 v[4];
  decoder.decode(codes, v);
  __m256 const factor = _mm256_broadcast_ss(scale);
  for (int i = 0; i < rows; ++i) {
    float const* const row = columns + i * block_depth<float>;
    __m256 product = _mm256_mul_ps(v[0], _mm256_loadu_ps(row));
    for (int m = 1; m < 4; ++m) product = _mm256_fmadd_ps(v[m], _mm256_loadu_ps(row + 8 * m), product);
    total[i][half] = _mm256_fmadd_ps(product, factor, total[i][half]);
  }
}

/// out[i * pitch + j] = sum_k a(first + i, k) * w(g, n + j, k) for `rows` rows of a and `count` of w.
/// A row's sum has the same order whatever `rows` is.
template <class Format, int rows>
KOKOMO_AVX2 void dot(QuantizedRef<Format> const& w, offset_t g, offset_t n, offset_t count, DotOperand const& a,
                     offset_t first, float* scales, float* out, offset_t pitch) {
  constexpr offset_t block_bytes = decoded_columns * Format::bits / 8;
  offset_t const blocks = DotOperand::blocks(a.depth), whole = a.depth / decoded_columns;
  offset_t const groups = Format::group == 0 ? 1 : divide_up(a.depth, std::max(Format::group, 1));
  float* const offsets = scales + groups;
  for (offset_t j = 0; j < count; ++j) {
    Avx2Decoder<Format> decoder;
    decoder.prepare();
    std::uint8_t const* codes = w.row(g, n + j);
    decode_scales(w, w.first_scale(g, n + j), groups, scales, offsets, Avx2Decoder<Format>::factor);
    auto const scale_of = [&](offset_t block) { return scales + w.group_of(block * decoded_columns); };
    __m256 total[rows][2];
    for (int i = 0; i < rows; ++i) total[i][0] = total[i][1] = _mm256_setzero_ps();
    float const* column = a.rows + first * block_depth<float>;
    offset_t block = 0;
    constexpr offset_t in_depth = block_depth<float> / decoded_columns;
    for (; block + in_depth <= whole; column += a.height * block_depth<float>)
      for (int m = 0; m < int(in_depth); m += 2, block += 2, codes += 2 * block_bytes) {
        _mm_prefetch(reinterpret_cast<char const*>(codes + 1024), _MM_HINT_T0);
        add_products<0>(decoder, codes, column + m * decoded_columns, scale_of(block), total);
        add_products<1>(decoder, codes + block_bytes, column + (m + 1) * decoded_columns, scale_of(block + 1), total);
      }
    for (offset_t m = 0, left = whole - block; m < left && m < in_depth; ++m, ++block, codes += block_bytes)
      add_products<0>(decoder, codes, column + m * decoded_columns, scale_of(block), total);
    if (block < blocks) {
      std::uint8_t rest[block_bytes] = {};
      offset_t const columns = a.depth % decoded_columns;
      std::memcpy(rest, codes, std::size_t((columns * Format::bits + 7) / 8));
      add_products<0>(decoder, rest, column + block % in_depth * decoded_columns, scale_of(block), total);
    }
    for (int i = 0; i < rows; ++i) {
      float sum = sum_of(_mm256_add_ps(total[i][0], total[i][1]));
      if constexpr (Format::zero_points) {
        static_assert(Format::group == decoded_columns);
        sum -= dot_floats(a.sums + (first + i) * blocks, offsets, blocks);
      }
      if (decoder.invalid()) sum = std::numeric_limits<float>::quiet_NaN();
      out[i * pitch + j] = sum;
    }
  }
}

/// The same for any number of rows.
template <class Format>
void dot_all(QuantizedRef<Format> const& w, offset_t g, offset_t n, offset_t count, DotOperand const& a, float* scales,
             float* out, offset_t pitch) {
  static_assert(dot_rows == 4);
  for (offset_t first = 0; first < a.height; first += dot_rows, out += dot_rows * pitch) {
    switch (std::min<offset_t>(dot_rows, a.height - first)) {
    case 1:
      dot<Format, 1>(w, g, n, count, a, first, scales, out, pitch);
      break;
    case 2:
      dot<Format, 2>(w, g, n, count, a, first, scales, out, pitch);
      break;
    case 3:
      dot<Format, 3>(w, g, n, count, a, first, scales, out, pitch);
      break;
    default:
      dot<Format, 4>(w, g, n, count, a, first, scales, out, pitch);
    }
  }
}
#endif

} // namespace kokomo::inline v0::detail::host

#endif
