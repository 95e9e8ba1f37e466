// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_OUTER_KERNEL_HPP
#define KOKOMO_DETAIL_HOST_OUTER_KERNEL_HPP

#include <kokomo/detail/host/quad.hpp>

namespace kokomo::inline v0::detail::host {

/// How a tile of an outer product begins and ends.
struct OuterTileMode {
  bool resume = false; ///< begin with `sums` rather than with zero
  bool keep = false;   ///< end in `sums` rather than in `w`
  bool add = false;    ///< add to `w` rather than overwrite it
  bool stream = false; ///< overwrite whole cache lines without reading them first
};

/// w(i, j) (=|+=) sum_k a(k, i) * b(k, j) over the rows of one tile and the columns of one panel: the gradient of a
/// weight. Both operands lie row after row as forward saw them, so neither is transposed, only cut: with r rows of the
/// tile, a(k, i) = a[k * r + i] and b(k, j) = b[k * columns + j]. The depth is the rows of one expert, often a few dozen,
/// so the result goes straight from registers to where it belongs, in its storage type. sums has row stride block_columns.
/// Every element is one chain of multiply-adds in ascending k, whatever the height of its tile.
template <class C, class S>
using OuterTile = void (*)(offset_t depth, C const* a, C const* b, C* sums, S* w, offset_t w_stride,
                           OuterTileMode mode);

/// As Microkernel: `tile[r]` does r rows, 1 <= r <= rows, of `columns` columns.
template <class C, class S> struct OuterKernel {
  int rows;
  int columns;
  std::array<OuterTile<C, S>, max_tile_rows + 1> tile;
};

// What each instruction set adds to its vector: the end of a row of a tile, two vectors of C stored as S.

template <class C> struct PortableOuter : PortableVector<C> {
  using typename PortableVector<C>::type;
  using PortableVector<C>::width;
  template <class S> static void finish(type first, type second, S* w, bool add, bool) {
    for (int i = 0; i < width; ++i) {
      w[i] = static_cast<S>(add ? static_cast<C>(w[i]) + first[i] : first[i]);
      w[i + width] = static_cast<S>(add ? static_cast<C>(w[i + width]) + second[i] : second[i]);
    }
  }
};

#if KOKOMO_HOST_X86
template <class C> struct Avx2Outer;
template <> struct Avx2Outer<float> : Avx2Vector<float> {
  KOKOMO_AVX2 static void load_line(float const* w, type& first, type& second) { expand(w, first, second); }
  KOKOMO_AVX2 static void load_line(float16 const* w, type& first, type& second) { expand(w, first, second); }
  KOKOMO_AVX2 static void load_line(bfloat16 const* w, type& first, type& second) { // in natural order, unlike a panel
    auto const* const halves = reinterpret_cast<__m128i const*>(w);
    first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(halves)), 16));
    second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(halves + 1)), 16));
  }
  KOKOMO_AVX2 static void store_line(float* w, type first, type second, bool stream) {
    if (stream) {
      _mm256_stream_ps(w, first);
      _mm256_stream_ps(w + 8, second);
    } else {
      _mm256_storeu_ps(w, first);
      _mm256_storeu_ps(w + 8, second);
    }
  }
  KOKOMO_AVX2 static void store_line(float16* w, type first, type second, bool stream) {
    store_bits(w,
               _mm256_set_m128i(_mm256_cvtps_ph(second, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                                _mm256_cvtps_ph(first, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)),
               stream);
  }
  KOKOMO_AVX2 static void store_line(bfloat16* w, type first, type second, bool stream) {
    __m256i const pairs = _mm256_packus_epi32(rounded(first), rounded(second));
    store_bits(w, _mm256_permute4x64_epi64(pairs, 0xd8), stream);
  }
  template <class S> KOKOMO_AVX2 static void finish(type first, type second, S* w, bool add, bool stream) {
    if (add) {
      type old_first, old_second;
      load_line(w, old_first, old_second);
      first = _mm256_add_ps(old_first, first), second = _mm256_add_ps(old_second, second);
    }
    store_line(w, first, second, stream);
  }

private:
  KOKOMO_AVX2 static void store_bits(void* w, __m256i bits, bool stream) {
    if (stream)
      _mm256_stream_si256(static_cast<__m256i*>(w), bits);
    else
      _mm256_storeu_si256(static_cast<__m256i*>(w), bits);
  }
  /// The upper halves as bfloat16's own conversion gives them: to nearest, ties to even, NaN stays NaN.
  KOKOMO_AVX2 static __m256i rounded(type v) {
    __m256i const bits = _mm256_castps_si256(v);
    __m256i const odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i const nearest = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i const quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    __m256i const nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(nearest, quiet, nan), 16);
  }
};
template <> struct Avx2Outer<double> : Avx2Vector<double> {
  KOKOMO_AVX2 static void finish(type first, type second, double* w, bool add, bool stream) {
    if (add) first = _mm256_add_pd(load(w), first), second = _mm256_add_pd(load(w + 4), second);
    if (stream) {
      _mm256_stream_pd(w, first);
      _mm256_stream_pd(w + 4, second);
    } else {
      store(w, first);
      store(w + 4, second);
    }
  }
};

template <class C> struct Avx512Outer;
template <> struct Avx512Outer<float> : Avx512Vector<float> {
  static constexpr __mmask16 all = 0xffff; // of the forms that leave lanes undefined, g++ 12 says that they may be read
  KOKOMO_AVX512 static void load_line(float const* w, type& first, type& second) { expand(w, first, second); }
  KOKOMO_AVX512 static void load_line(float16 const* w, type& first, type& second) {
    auto const* const halves = reinterpret_cast<__m256i const*>(w);
    first = _mm512_maskz_cvtph_ps(all, _mm256_loadu_si256(halves));
    second = _mm512_maskz_cvtph_ps(all, _mm256_loadu_si256(halves + 1));
  }
  KOKOMO_AVX512 static void load_line(bfloat16 const* w, type& first, type& second) {
    auto const* const halves = reinterpret_cast<__m256i const*>(w);
    first = _mm512_castsi512_ps(
        _mm512_maskz_slli_epi32(all, _mm512_maskz_cvtepu16_epi32(all, _mm256_loadu_si256(halves)), 16));
    second = _mm512_castsi512_ps(
        _mm512_maskz_slli_epi32(all, _mm512_maskz_cvtepu16_epi32(all, _mm256_loadu_si256(halves + 1)), 16));
  }
  KOKOMO_AVX512 static void store_line(float* w, type first, type second, bool stream) {
    if (stream) {
      _mm512_stream_ps(w, first);
      _mm512_stream_ps(w + 16, second);
    } else {
      _mm512_storeu_ps(w, first);
      _mm512_storeu_ps(w + 16, second);
    }
  }
  KOKOMO_AVX512 static void store_line(float16* w, type first, type second, bool stream) {
    store_bits(w, _mm512_maskz_cvtps_ph(all, first, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
               _mm512_maskz_cvtps_ph(all, second, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), stream);
  }
  KOKOMO_AVX512 static void store_line(bfloat16* w, type first, type second, bool stream) {
    store_bits(w, rounded(first), rounded(second), stream);
  }
  template <class S> KOKOMO_AVX512 static void finish(type first, type second, S* w, bool add, bool stream) {
    if (add) {
      type old_first, old_second;
      load_line(w, old_first, old_second);
      first = _mm512_add_ps(old_first, first), second = _mm512_add_ps(old_second, second);
    }
    store_line(w, first, second, stream);
  }

private:
  KOKOMO_AVX512 static void store_bits(void* w, __m256i first, __m256i second, bool stream) {
    auto* const halves = static_cast<__m256i*>(w);
    if (stream) {
      _mm256_stream_si256(halves, first);
      _mm256_stream_si256(halves + 1, second);
    } else {
      _mm256_storeu_si256(halves, first);
      _mm256_storeu_si256(halves + 1, second);
    }
  }
  KOKOMO_AVX512 static __m256i rounded(type v) {
    __m512i const bits = _mm512_castps_si512(v);
    __m512i const odd = _mm512_and_si512(_mm512_maskz_srli_epi32(all, bits, 16), _mm512_set1_epi32(1));
    __m512i const nearest = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i const quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
    __mmask16 const nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_maskz_cvtepi32_epi16(all,
                                       _mm512_maskz_srli_epi32(all, _mm512_mask_blend_epi32(nan, nearest, quiet), 16));
  }
};
template <> struct Avx512Outer<double> : Avx512Vector<double> {
  KOKOMO_AVX512 static void finish(type first, type second, double* w, bool add, bool stream) {
    if (add) first = _mm512_add_pd(load(w), first), second = _mm512_add_pd(load(w + 8), second);
    if (stream) {
      _mm512_stream_pd(w, first);
      _mm512_stream_pd(w + 8, second);
    } else {
      store(w, first);
      store(w + 8, second);
    }
  }
};
#endif

// As the tiles of microkernel.hpp, `UNROLLED` steps at a time. What is read before it is written comes into the cache while
// the tile computes.
#define KOKOMO_DEFINE_OUTER_TILE(NAME, VECTOR, UNROLLED, TARGET)                                                       \
  template <class C, class S, int rows>                                                                                \
  TARGET void NAME(offset_t depth, C const* a, C const* b, C* sums, S* w, offset_t w_stride, OuterTileMode mode) {     \
    using V = VECTOR<C>;                                                                                               \
    typename V::type sum[rows][2];                                                                                     \
    KOKOMO_UNROLL for (int i = 0; i < rows; ++i) {                                                                     \
      C const* const line = sums + i * block_columns<C>;                                                               \
      sum[i][0] = mode.resume ? V::load(line) : V::zero();                                                             \
      sum[i][1] = mode.resume ? V::load(line + V::width) : V::zero();                                                  \
    }                                                                                                                  \
    if (!mode.stream && !mode.keep)                                                                                    \
      KOKOMO_UNROLL for (int i = 0; i < rows; ++i) __builtin_prefetch(w + i * w_stride, 1, 3);                         \
    offset_t k = 0;                                                                                                    \
    for (; k + UNROLLED <= depth; k += UNROLLED, a += UNROLLED * rows, b += UNROLLED * 2 * V::width)                   \
      KOKOMO_UNROLL for (int u = 0; u < UNROLLED; ++u) {                                                               \
        typename V::type const b0 = V::load(b + 2 * u * V::width), b1 = V::load(b + (2 * u + 1) * V::width);           \
        KOKOMO_UNROLL for (int i = 0; i < rows; ++i) {                                                                 \
          typename V::type const value = V::broadcast(a + u * rows + i);                                               \
          sum[i][0] = V::fma(value, b0, sum[i][0]);                                                                    \
          sum[i][1] = V::fma(value, b1, sum[i][1]);                                                                    \
        }                                                                                                              \
      }                                                                                                                \
    for (; k < depth; ++k, a += rows, b += 2 * V::width) {                                                             \
      typename V::type const b0 = V::load(b), b1 = V::load(b + V::width);                                              \
      KOKOMO_UNROLL for (int i = 0; i < rows; ++i) {                                                                   \
        typename V::type const value = V::broadcast(a + i);                                                            \
        sum[i][0] = V::fma(value, b0, sum[i][0]);                                                                      \
        sum[i][1] = V::fma(value, b1, sum[i][1]);                                                                      \
      }                                                                                                                \
    }                                                                                                                  \
    if (mode.keep) {                                                                                                   \
      KOKOMO_UNROLL for (int i = 0; i < rows; ++i) {                                                                   \
        V::store(sums + i * block_columns<C>, sum[i][0]);                                                              \
        V::store(sums + i * block_columns<C> + V::width, sum[i][1]);                                                   \
      }                                                                                                                \
    } else {                                                                                                           \
      KOKOMO_UNROLL for (int i = 0; i < rows; ++i)                                                                     \
          V::finish(sum[i][0], sum[i][1], w + i * w_stride, mode.add, mode.stream);                                    \
    }                                                                                                                  \
  }

KOKOMO_DEFINE_OUTER_TILE(portable_outer_tile, PortableOuter, 1, )
#if KOKOMO_HOST_X86
KOKOMO_DEFINE_OUTER_TILE(avx2_outer_tile, Avx2Outer, 4, KOKOMO_AVX2)
KOKOMO_DEFINE_OUTER_TILE(avx512_outer_tile, Avx512Outer, 2, KOKOMO_AVX512)
#endif
#undef KOKOMO_DEFINE_OUTER_TILE

/// The kernel of an instruction set for gradients in storage type S.
template <class C, class S> OuterKernel<C, S> const& outer_kernel(InstructionSet set) {
  static OuterKernel<C, S> const portable = []<int... r>(std::integer_sequence<int, r...>) {
    return OuterKernel<C, S>{6, 2 * PortableVector<C>::width, {nullptr, portable_outer_tile<C, S, r + 1>...}};
  }
  (std::make_integer_sequence<int, 6>{});
#if KOKOMO_HOST_X86
  static OuterKernel<C, S> const avx2 = []<int... r>(std::integer_sequence<int, r...>) {
    return OuterKernel<C, S>{6, 2 * Avx2Vector<C>::width, {nullptr, avx2_outer_tile<C, S, r + 1>...}};
  }
  (std::make_integer_sequence<int, 6>{});
  static OuterKernel<C, S> const avx512 = []<int... r>(std::integer_sequence<int, r...>) {
    return OuterKernel<C, S>{12, 2 * Avx512Vector<C>::width, {nullptr, avx512_outer_tile<C, S, r + 1>...}};
  }
  (std::make_integer_sequence<int, 12>{});
  if (set == InstructionSet::avx512) return avx512;
  if (set == InstructionSet::avx2) return avx2;
#endif
  (void)set;
  return portable;
}

/// Streamed stores become visible to other threads before this worker says that it is done.
inline void fence_streamed_stores() {
#if KOKOMO_HOST_X86
  _mm_sfence();
#endif
}

} // namespace kokomo::inline v0::detail::host

#endif
