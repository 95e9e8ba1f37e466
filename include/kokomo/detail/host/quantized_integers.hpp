// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_QUANTIZED_INTEGERS_HPP
#define KOKOMO_DETAIL_HOST_QUANTIZED_INTEGERS_HPP

#include <kokomo/detail/host/quantized_dot.hpp>
#include <kokomo/detail/quantized_product.hpp>

/// Products of activations rounded to int8 with quantised weights whose codes are integers: 32 at a time, exact in int32.

namespace kokomo::inline v0::detail::host {

static_assert(activation_group == decoded_columns);

/// Rows rounded to int8, and the step of each 32 columns.
struct IntegerOperand {
  std::int8_t const* rows; ///< [height, blocks of 32], in the order of the codes
  float const* steps;      ///< [height, blocks]
  float const* sums;       ///< [height, blocks] of the rounded values, for zero points
  offset_t height, depth;
};

#if KOKOMO_HOST_X86
/// 32 activations as integers, as ActivationGrid rounds them. Returns the step.
KOKOMO_AVX2_INLINE float round_activations(float const* from, __m256i (&integers)[4]) {
  __m256i const magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i most = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) // floats without sign are ordered as integers, NaN the largest
    most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(from + 8 * i)), magnitude));
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  ActivationGrid const grid(_mm_cvtss_f32(_mm_castsi128_ps(four)));
  __m256 const inverse = _mm256_set1_ps(grid.inverse);
  for (int i = 0; i < 4; ++i) integers[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from + 8 * i), inverse));
  return grid.step;
}

/// values[i] = their rounded ones, for `blocks` times 32 values.
KOKOMO_AVX2 inline void round_in_place(float* values, offset_t blocks) {
  for (offset_t b = 0; b < blocks; ++b, values += decoded_columns) {
    __m256i integers[4];
    __m256 const step = _mm256_set1_ps(round_activations(values, integers));
    for (int i = 0; i < 4; ++i) _mm256_storeu_ps(values + 8 * i, _mm256_mul_ps(_mm256_cvtepi32_ps(integers[i]), step));
  }
}

/// One block of a row: its codes, its step, and the sum of what they stand for.
template <class Format> KOKOMO_AVX2 void round_block(float const* from, std::int8_t* codes, float& step, float& sum) {
  __m256i integers[4];
  step = round_activations(from, integers);
  __m256i const all =
      _mm256_add_epi32(_mm256_add_epi32(integers[0], integers[1]), _mm256_add_epi32(integers[2], integers[3]));
  sum = step * sum_of(_mm256_cvtepi32_ps(all));
  __m256i const pairs =
      _mm256_packs_epi16(_mm256_packs_epi32(integers[0], integers[1]), _mm256_packs_epi32(integers[2], integers[3]));
  __m256i bytes = _mm256_permutevar8x32_epi32(pairs, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  if (Format::bits == 4) { // even columns, then odd ones: the low nibbles, then the high ones
    __m256i const order = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6, 8, 10, 12,
                                           14, 1, 3, 5, 7, 9, 11, 13, 15);
    bytes = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(bytes, order), 0xd8);
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), bytes);
}

/// \param[in] scratch of rows.size() times block_depth floats
template <class Format, class Left>
IntegerOperand pack_integer_operand(Left const& left, Range rows, offset_t depth, float* memory, float* scratch) {
  offset_t const height = rows.size(), blocks = DotOperand::blocks(depth);
  auto* const steps = memory;
  auto* const sums = memory + height * blocks;
  auto* const codes = reinterpret_cast<std::int8_t*>(sums + height * blocks);
  for (offset_t k = 0; k < depth; k += block_depth<float>) {
    offset_t const columns = std::min(block_depth<float>, depth - k);
    left.pack_rows(rows.first, height, k, columns, scratch, block_depth<float>);
    for (offset_t i = 0; i < height; ++i) {
      float* const row = scratch + i * block_depth<float>;
      std::fill_n(row + columns, DotOperand::blocks(columns) * decoded_columns - columns, 0.f);
      for (offset_t first = 0; first < columns; first += decoded_columns) {
        offset_t const at = i * blocks + (k + first) / decoded_columns;
        round_block<Format>(row + first, codes + at * decoded_columns, steps[at], sums[at]);
      }
    }
  }
  return {codes, steps, sums, height, depth};
}

/// 32 codes as the integers that they stand for, 1 / factor times too large.
template <class Format> struct Avx2Integers {
  static constexpr float factor = std::is_same_v<Format, Mxfp4> ? 0.5f : 1;
  __m256i table;

  KOKOMO_AVX2_INLINE void prepare() {
    alignas(16) std::int8_t values[16] = {};
    if (Format::bits == 4)
      for (int code = 0; code < 16; ++code) values[code] = std::int8_t(Format::decode(std::uint8_t(code)) / factor);
    table = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<__m128i const*>(values)));
  }
  KOKOMO_AVX2_INLINE __m256i decode(std::uint8_t const* codes) const {
    if constexpr (Format::bits == 8) return _mm256_loadu_si256(reinterpret_cast<__m256i const*>(codes));
    __m256i const both = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<__m128i const*>(codes)));
    __m256i const split = _mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4));
    return _mm256_shuffle_epi8(table, _mm256_and_si256(split, _mm256_set1_epi8(15)));
  }
};

/// total[i] += factors[i * blocks] * sum of the products of 32 columns of row i with their weights.
template <int half, int rows>
KOKOMO_AVX2_INLINE void add_integers(__m256i weights, std::int8_t const* columns, offset_t blocks, float const* factors,
                                     __m256 (&total)[rows][2]) {
  __m256i const sizes = _mm256_sign_epi8(weights, weights), ones = _mm256_set1_epi16(1);
  for (int i = 0; i < rows; ++i) {
    auto const* const row = reinterpret_cast<__m256i const*>(columns + i * blocks * decoded_columns);
    // at most 2 * 128 * 127 a pair: no saturation
    __m256i const pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(_mm256_loadu_si256(row), weights));
    __m256 const products = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
    total[i][half] = _mm256_fmadd_ps(products, _mm256_broadcast_ss(factors + i * blocks), total[i][half]);
  }
}

/// As `dot`.
template <class Format, int rows>
KOKOMO_AVX2 void dot_integers(QuantizedRef<Format> const& w, offset_t g, offset_t n, offset_t count,
                              IntegerOperand const& a, offset_t first, float* scales, float* out, offset_t pitch) {
  constexpr offset_t block_bytes = decoded_columns * Format::bits / 8;
  offset_t const blocks = DotOperand::blocks(a.depth), whole = a.depth / decoded_columns;
  offset_t const groups = Format::group == 0 ? 1 : divide_up(a.depth, std::max(Format::group, 1));
  float* const offsets = scales + groups;
  float* const factors = offsets + groups;
  float const* const steps = a.steps + first * blocks;
  Avx2Integers<Format> integers;
  integers.prepare();
  for (offset_t j = 0; j < count; ++j) {
    std::uint8_t const* codes = w.row(g, n + j);
    std::int8_t const* columns = a.rows + first * blocks * decoded_columns;
    decode_scales(w, w.first_scale(g, n + j), groups, scales, offsets, Avx2Integers<Format>::factor);
    for (int i = 0; i < rows; ++i)
      for (offset_t b = 0; b < blocks; ++b)
        factors[i * blocks + b] = steps[i * blocks + b] * scales[w.group_of(b * decoded_columns)];
    __m256 total[rows][2];
    for (int i = 0; i < rows; ++i) total[i][0] = total[i][1] = _mm256_setzero_ps();
    offset_t b = 0;
    for (; b + 2 <= whole; b += 2, codes += 2 * block_bytes, columns += 2 * decoded_columns) {
      _mm_prefetch(reinterpret_cast<char const*>(codes + 1024), _MM_HINT_T0);
      add_integers<0>(integers.decode(codes), columns, blocks, factors + b, total);
      add_integers<1>(integers.decode(codes + block_bytes), columns + decoded_columns, blocks, factors + b + 1, total);
    }
    if (b < whole) {
      add_integers<0>(integers.decode(codes), columns, blocks, factors + b, total);
      ++b, codes += block_bytes, columns += decoded_columns;
    }
    if (b < blocks) {
      std::uint8_t rest[block_bytes] = {};
      std::memcpy(rest, codes, std::size_t((a.depth % decoded_columns * Format::bits + 7) / 8));
      add_integers<1>(integers.decode(rest), columns, blocks, factors + b, total);
    }
    for (int i = 0; i < rows; ++i) {
      float sum = sum_of(_mm256_add_ps(total[i][0], total[i][1]));
      if constexpr (Format::zero_points) sum -= dot_floats(a.sums + (first + i) * blocks, offsets, blocks);
      out[i * pitch + j] = sum;
    }
  }
}

/// The same for any number of rows.
template <class Format>
void dot_all(QuantizedRef<Format> const& w, offset_t g, offset_t n, offset_t count, IntegerOperand const& a,
             float* scales, float* out, offset_t pitch) {
  static_assert(dot_rows == 4);
  for (offset_t first = 0; first < a.height; first += dot_rows, out += dot_rows * pitch) {
    switch (std::min<offset_t>(dot_rows, a.height - first)) {
    case 1:
      dot_integers<Format, 1>(w, g, n, count, a, first, scales, out, pitch);
      break;
    case 2:
      dot_integers<Format, 2>(w, g, n, count, a, first, scales, out, pitch);
      break;
    case 3:
      dot_integers<Format, 3>(w, g, n, count, a, first, scales, out, pitch);
      break;
    default:
      dot_integers<Format, 4>(w, g, n, count, a, first, scales, out, pitch);
    }
  }
}
#endif

} // namespace kokomo::inline v0::detail::host

#endif
