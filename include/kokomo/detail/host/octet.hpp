// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_OCTET_HPP
#define KOKOMO_DETAIL_HOST_OCTET_HPP

#include <kokomo/detail/host/microkernel.hpp>

/// Copying and transposing lines of elements into float, eight at a time: what packing spends its time on.

namespace kokomo::inline v0::detail::host {

#if KOKOMO_HOST_X86
KOKOMO_AVX2 inline __m256 load_octet(float const* p) {
  return _mm256_loadu_ps(p);
}
KOKOMO_AVX2 inline __m256 load_octet(bfloat16 const* p) {
  __m128i const bits = _mm_loadu_si128(reinterpret_cast<__m128i const*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
KOKOMO_AVX2 inline __m256 load_octet(float16 const* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(p)));
}

/// to[x] = factor * from[x] for the first length - length % 8 elements, whose number it returns.
template <class S> KOKOMO_AVX2 offset_t copy_octets(S const* from, offset_t length, float factor, float* to) {
  offset_t const whole = length - length % 8;
  __m256 const f = _mm256_set1_ps(factor);
  if (factor == 1.f)
    for (offset_t x = 0; x < whole; x += 8) _mm256_storeu_ps(to + x, load_octet(from + x));
  else
    for (offset_t x = 0; x < whole; x += 8) _mm256_storeu_ps(to + x, _mm256_mul_ps(f, load_octet(from + x)));
  return whole;
}

/// to[x * pitch + i] = factor[i] * line[i][x] for i < 8 and the first length - length % 8 elements of each line.
template <class S>
KOKOMO_AVX2 offset_t transpose_octets(S const* const (&line)[8], float const (&factor)[8], bool scaled, offset_t length,
                                      float* to, offset_t pitch) {
  offset_t const whole = length - length % 8;
  for (offset_t x = 0; x < whole; x += 8, to += 8 * pitch) {
    __m256 v[8], w[8];
    KOKOMO_UNROLL for (int i = 0; i < 8; ++i) {
      v[i] = load_octet(line[i] + x);
      if (scaled) v[i] = _mm256_mul_ps(v[i], _mm256_set1_ps(factor[i]));
    }
    KOKOMO_UNROLL for (int i = 0; i < 8; i += 2) w[i] = _mm256_unpacklo_ps(v[i], v[i + 1]),
                                                 w[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    KOKOMO_UNROLL for (int i = 0; i < 8; i += 4) KOKOMO_UNROLL for (int j = 0; j < 2; ++j) {
      v[i + 2 * j] = _mm256_shuffle_ps(w[i + j], w[i + j + 2], 0x44);
      v[i + 2 * j + 1] = _mm256_shuffle_ps(w[i + j], w[i + j + 2], 0xee);
    }
    KOKOMO_UNROLL for (int i = 0; i < 4; ++i) {
      _mm256_storeu_ps(to + i * pitch, _mm256_permute2f128_ps(v[i], v[i + 4], 0x20));
      _mm256_storeu_ps(to + (i + 4) * pitch, _mm256_permute2f128_ps(v[i], v[i + 4], 0x31));
    }
  }
  return whole;
}
#endif

/// Whether the functions above serve operands in compute type C on this machine.
template <class C> bool has_octets() {
  return KOKOMO_HOST_X86 && std::is_same_v<C, float> && instruction_set() != InstructionSet::portable;
}

} // namespace kokomo::inline v0::detail::host

#endif
