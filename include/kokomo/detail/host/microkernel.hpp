// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_MICROKERNEL_HPP
#define KOKOMO_DETAIL_HOST_MICROKERNEL_HPP

#include <kokomo/types.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <utility>

/// Whether this translation unit can hold code for instruction sets beyond its own flags. nvcc's front end cannot.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__CUDACC__)
#define KOKOMO_HOST_X86 1
#include <cpuid.h>
#include <immintrin.h>
#define KOKOMO_AVX2 __attribute__((target("avx2,fma,f16c")))
#define KOKOMO_AVX512 __attribute__((target("avx512f")))
#else
#define KOKOMO_HOST_X86 0
#endif

/// Unrolls the loop that follows, whose bounds are constants: arrays of vectors become registers.
#if defined(__clang__)
#define KOKOMO_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__) && !defined(__CUDACC__)
#define KOKOMO_UNROLL _Pragma("GCC unroll 16")
#else
#define KOKOMO_UNROLL
#endif

namespace kokomo::inline v0::detail::host {

enum class InstructionSet { portable, avx2, avx512 };

/// Blocking of the host product. A block of rows of the left operand (block_rows x block_depth) and the accumulators
/// (block_rows x block_columns) live in the L2 cache, a packed panel of the right operand (block_depth x panel) in L1.
/// Panels that were packed beforehand cost nothing to take again, so there the blocks are lower and deeper: sums then
/// pass half as often between registers and memory.
inline constexpr offset_t block_rows = 120, deep_block_rows = 72;
template <class C> inline constexpr offset_t block_depth = 1024 / sizeof(C);
template <class C> inline constexpr offset_t deep_block_depth = 2 * block_depth<C>;
template <class C> inline constexpr offset_t block_columns = 2048 / sizeof(C);
template <class C> inline constexpr offset_t max_panel_columns = 128 / sizeof(C);
inline constexpr int max_tile_rows = 12;
/// Elements from one row of the packed left operand to the next. Not a multiple of a cache line: the rows of a tile are
/// read at the same step, and loads from one bank of the L1 cache would wait for each other.
template <class C> inline constexpr offset_t left_pitch = deep_block_depth<C> + 16 / sizeof(C);

/// Cache lines that a tile brings into the L2 cache, evenly over its steps: `count` every `prefetch_steps`. Either those
/// at base + *line and, unless it is null, at second + *line, or, without a list, all from `base` up to `last`.
/// Addresses as numbers, for they may lie past the end of an array.
inline constexpr offset_t prefetch_steps = 16;
struct Prefetch {
  std::uintptr_t base = 0, second = 0, last = 0;
  offset_t const *line = nullptr, *end = nullptr;
  int count = 0;

  void advance() {
    if (line == nullptr) {
      for (int i = 0; i < count && base < last; ++i, base += 64) fetch(base);
      return;
    }
    for (int i = 0; i < count && line != end; ++i, ++line) {
      fetch(base + std::uintptr_t(*line));
      if (second != 0) fetch(second + std::uintptr_t(*line));
    }
  }
  static void fetch(std::uintptr_t address) { __builtin_prefetch(reinterpret_cast<void const*>(address), 0, 2); }
};

/// c(i, j) (=|+=) sum_k a(i, k) * b(k, j) over the rows of one tile and the columns of one panel, or of two that lie
/// side by side in c. a has row stride left_pitch, c has row stride block_columns, b (and `second`, where the tile is of
/// two panels) is packed in storage type S: panel columns after panel columns, in the order of `panel_place`.
/// Every element is one chain of multiply-adds in ascending k, whatever its tile: a row gets the same bits wherever it
/// stands in its group.
template <class C, class S>
using Tile = void (*)(offset_t depth, C const* a, S const* b, S const* second, C* c, bool accumulate, Prefetch ahead);

/// The tiles of one instruction set: `tile[r]` does r rows, 1 <= r <= rows, of `columns` columns, `wide_tile[r]` does
/// 1 <= r <= wide_rows of two panels: so few rows have too few sums in flight to keep the multipliers busy.
template <class C, class S = C> struct Microkernel {
  using compute_type = C;
  using panel_type = S;

  InstructionSet set;
  int rows, columns, wide_rows;
  std::array<Tile<C, S>, max_tile_rows + 1> tile;
  std::array<Tile<C, S>, 4> wide_tile;
};

/// Where column j of a panel of `columns` stands among its elements of one k. Two bfloat16 that share 32 bits become two
/// vectors of floats by a shift and a mask, so columns j and j + columns / 2 are neighbours.
template <class S> constexpr int panel_place(int j, int columns) {
  if constexpr (std::is_same_v<S, bfloat16>)
    return j < columns / 2 ? 2 * j : 2 * (j - columns / 2) + 1;
  else
    return j;
}

// One vector type each instruction set. FMA is asked for by name: contraction of a * b + c is the compiler's choice and
// could differ between tile heights. By the instruction's name, even: from the intrinsic, g++ makes forms that overwrite a
// factor instead of the sum, and then moves sums between registers and the stack inside of the loop over steps.

template <class C> struct PortableVector {
  static constexpr int width = 16 / sizeof(C);
#if defined(__GNUC__)
  typedef C type __attribute__((vector_size(16)));
#else
  struct type {
    C lane[width] = {};
    C& operator[](int i) { return lane[i]; }
    C operator[](int i) const { return lane[i]; }
    friend type operator+(type x, type y) {
      for (int i = 0; i < width; ++i) x.lane[i] += y.lane[i];
      return x;
    }
    friend type operator*(type x, type y) {
      for (int i = 0; i < width; ++i) x.lane[i] *= y.lane[i];
      return x;
    }
  };
#endif
  static type zero() {
    return type{};
  }
  static type load(C const* p) {
    type v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(C* p, type v) {
    __builtin_memcpy(p, &v, sizeof v);
  }
  static type broadcast(C const* p) {
    type v{};
    for (int i = 0; i < width; ++i) v[i] = *p;
    return v;
  }
  static type fma(type x, type y, type sum) {
    return sum + x * y;
  }
  /// The two vectors of one k of a panel.
  static void expand(C const* p, type& first, type& second) {
    first = load(p), second = load(p + width);
  }
  template <class S> static void expand(S const* p, type& first, type& second) {
    C columns[2 * width];
    for (int j = 0; j < 2 * width; ++j) columns[j] = static_cast<C>(p[panel_place<S>(j, 2 * width)]);
    expand(columns, first, second);
  }
};

#if KOKOMO_HOST_X86
template <class C> struct Avx2Vector;
template <> struct Avx2Vector<float> {
  using type = __m256;
  static constexpr int width = 8;
  KOKOMO_AVX2 static type zero() { return _mm256_setzero_ps(); }
  KOKOMO_AVX2 static type load(float const* p) { return _mm256_loadu_ps(p); }
  KOKOMO_AVX2 static void store(float* p, type v) { _mm256_storeu_ps(p, v); }
  KOKOMO_AVX2 static type broadcast(float const* p) { return _mm256_broadcast_ss(p); }
  KOKOMO_AVX2 static type fma(type x, type y, type sum) {
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y));
    return sum;
  }
  KOKOMO_AVX2 static void expand(float const* p, type& first, type& second) { first = load(p), second = load(p + 8); }
  KOKOMO_AVX2 static void expand(bfloat16 const* p, type& first, type& second) {
    __m256i const pairs = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p));
    first = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    second = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(int(0xffff0000))));
  }
  KOKOMO_AVX2 static void expand(float16 const* p, type& first, type& second) {
    auto const* const halves = reinterpret_cast<__m128i const*>(p);
    first = _mm256_cvtph_ps(_mm_loadu_si128(halves)), second = _mm256_cvtph_ps(_mm_loadu_si128(halves + 1));
  }
};
template <> struct Avx2Vector<double> {
  using type = __m256d;
  static constexpr int width = 4;
  KOKOMO_AVX2 static type zero() { return _mm256_setzero_pd(); }
  KOKOMO_AVX2 static type load(double const* p) { return _mm256_loadu_pd(p); }
  KOKOMO_AVX2 static void store(double* p, type v) { _mm256_storeu_pd(p, v); }
  KOKOMO_AVX2 static type broadcast(double const* p) { return _mm256_broadcast_sd(p); }
  KOKOMO_AVX2 static type fma(type x, type y, type sum) {
    asm("vfmadd231pd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y));
    return sum;
  }
  KOKOMO_AVX2 static void expand(double const* p, type& first, type& second) { first = load(p), second = load(p + 4); }
};

template <class C> struct Avx512Vector;
template <> struct Avx512Vector<float> { // g++ 12 warns inside of the forms without maskz
  using type = __m512;
  static constexpr int width = 16;
  KOKOMO_AVX512 static type zero() { return _mm512_setzero_ps(); }
  KOKOMO_AVX512 static type load(float const* p) { return _mm512_loadu_ps(p); }
  KOKOMO_AVX512 static void store(float* p, type v) { _mm512_storeu_ps(p, v); }
  KOKOMO_AVX512 static type broadcast(float const* p) { return _mm512_set1_ps(*p); }
  KOKOMO_AVX512 static type fma(type x, type y, type sum) {
    asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
    return sum;
  }
  KOKOMO_AVX512 static void expand(float const* p, type& first, type& second) {
    first = load(p), second = load(p + 16);
  }
  KOKOMO_AVX512 static void expand(bfloat16 const* p, type& first, type& second) {
    __m512i const pairs = _mm512_loadu_si512(p);
    first = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, pairs, 16));
    second = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000))));
  }
  KOKOMO_AVX512 static void expand(float16 const* p, type& first, type& second) {
    auto const* const halves = reinterpret_cast<__m256i const*>(p);
    first = _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(halves));
    second = _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(halves + 1));
  }
};
template <> struct Avx512Vector<double> {
  using type = __m512d;
  static constexpr int width = 8;
  KOKOMO_AVX512 static type zero() { return _mm512_setzero_pd(); }
  KOKOMO_AVX512 static type load(double const* p) { return _mm512_loadu_pd(p); }
  KOKOMO_AVX512 static void store(double* p, type v) { _mm512_storeu_pd(p, v); }
  KOKOMO_AVX512 static type broadcast(double const* p) { return _mm512_set1_pd(*p); }
  KOKOMO_AVX512 static type fma(type x, type y, type sum) {
    asm("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
    return sum;
  }
  KOKOMO_AVX512 static void expand(double const* p, type& first, type& second) {
    first = load(p), second = load(p + 8);
  }
};
#endif

// A macro, since a target attribute cannot depend on a template parameter and g++ splits wide vectors before it
// inlines.
// `UNROLLED` steps at a time: whatever is no multiply-add, load or broadcast takes places in the pipeline that the next
// multiply-adds could have, all the more where two hardware threads share them.
#define KOKOMO_DEFINE_TILE(NAME, VECTOR, UNROLLED, TARGET)                                                             \
  template <class C, class S, int rows, int panels>                                                                    \
  TARGET void NAME(offset_t depth, C const* a, S const* b, S const* second, C* c, bool accumulate, Prefetch ahead) {   \
    using V = VECTOR<C>;                                                                                               \
    constexpr int width = 2 * V::width;                                                                                \
    typename V::type sum[rows][2 * panels];                                                                            \
    KOKOMO_UNROLL for (int i = 0; i < rows; ++i) {                                                                     \
      C const* const line = c + i * block_columns<C>;                                                                  \
      KOKOMO_UNROLL for (int j = 0; j < 2 * panels; ++j) sum[i][j] =                                                   \
          accumulate ? V::load(line + j * V::width) : V::zero();                                                       \
    }                                                                                                                  \
    offset_t k = 0;                                                                                                    \
    for (; k + UNROLLED <= depth; k += UNROLLED) {                                                                     \
      if (k % prefetch_steps == 0) ahead.advance();                                                                    \
      KOKOMO_UNROLL for (int u = 0; u < UNROLLED; ++u) {                                                               \
        typename V::type column[2 * panels];                                                                           \
        V::expand(b + u * width, column[0], column[1]);                                                                \
        if constexpr (panels == 2) V::expand(second + u * width, column[2], column[3]);                                \
        KOKOMO_UNROLL for (int i = 0; i < rows; ++i) {                                                                 \
          typename V::type const value = V::broadcast(a + u + i * left_pitch<C>);                                      \
          KOKOMO_UNROLL for (int j = 0; j < 2 * panels; ++j) sum[i][j] = V::fma(value, column[j], sum[i][j]);          \
        }                                                                                                              \
      }                                                                                                                \
      a += UNROLLED, b += UNROLLED * width;                                                                            \
      if constexpr (panels == 2) second += UNROLLED * width;                                                           \
    }                                                                                                                  \
    for (; k < depth; ++k) {                                                                                           \
      typename V::type column[2 * panels];                                                                             \
      V::expand(b, column[0], column[1]);                                                                              \
      if constexpr (panels == 2) V::expand(second, column[2], column[3]);                                              \
      KOKOMO_UNROLL for (int i = 0; i < rows; ++i) {                                                                   \
        typename V::type const value = V::broadcast(a + i * left_pitch<C>);                                            \
        KOKOMO_UNROLL for (int j = 0; j < 2 * panels; ++j) sum[i][j] = V::fma(value, column[j], sum[i][j]);            \
      }                                                                                                                \
      ++a, b += width;                                                                                                 \
      if constexpr (panels == 2) second += width;                                                                      \
    }                                                                                                                  \
    KOKOMO_UNROLL for (int i = 0; i < rows; ++i) {                                                                     \
      C* const line = c + i * block_columns<C>;                                                                        \
      KOKOMO_UNROLL for (int j = 0; j < 2 * panels; ++j) V::store(line + j * V::width, sum[i][j]);                     \
    }                                                                                                                  \
  }

KOKOMO_DEFINE_TILE(portable_tile, PortableVector, 1, )
#if KOKOMO_HOST_X86
KOKOMO_DEFINE_TILE(avx2_tile, Avx2Vector, 4, KOKOMO_AVX2)
KOKOMO_DEFINE_TILE(avx512_tile, Avx512Vector, 2, KOKOMO_AVX512)
#endif
#undef KOKOMO_DEFINE_TILE

/// The microkernel of an instruction set. 16 vector registers hold 6 x 2 accumulators, 32 hold 12 x 2.
template <class C, class S = C> Microkernel<C, S> const& microkernel(InstructionSet set) {
  static Microkernel<C, S> const portable = []<int... r>(std::integer_sequence<int, r...>) {
    return Microkernel<C, S>{InstructionSet::portable,
                             6,
                             2 * PortableVector<C>::width,
                             0,
                             {nullptr, portable_tile<C, S, r + 1, 1>...},
                             {nullptr}};
  }
  (std::make_integer_sequence<int, 6>{});
#if KOKOMO_HOST_X86
  static Microkernel<C, S> const avx2 = []<int... r>(std::integer_sequence<int, r...>) {
    return Microkernel<C, S>{InstructionSet::avx2,
                             6,
                             2 * Avx2Vector<C>::width,
                             3,
                             {nullptr, avx2_tile<C, S, r + 1, 1>...},
                             {nullptr, avx2_tile<C, S, 1, 2>, avx2_tile<C, S, 2, 2>, avx2_tile<C, S, 3, 2>}};
  }
  (std::make_integer_sequence<int, 6>{});
  static Microkernel<C, S> const avx512 = []<int... r>(std::integer_sequence<int, r...>) {
    return Microkernel<C, S>{InstructionSet::avx512,
                             12,
                             2 * Avx512Vector<C>::width,
                             3,
                             {nullptr, avx512_tile<C, S, r + 1, 1>...},
                             {nullptr, avx512_tile<C, S, 1, 2>, avx512_tile<C, S, 2, 2>, avx512_tile<C, S, 3, 2>}};
  }
  (std::make_integer_sequence<int, 12>{});
  if (set == InstructionSet::avx512) return avx512;
  if (set == InstructionSet::avx2) return avx2;
#endif
  (void)set;
  return portable;
}

#if KOKOMO_HOST_X86
inline bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

/// Whether this build and this processor (and its operating system) can run an instruction set.
inline bool supports(InstructionSet set) {
#if KOKOMO_HOST_X86
  if (set == InstructionSet::avx512) return __builtin_cpu_supports("avx512f");
  // AVX2 and FMA with an operating system that saves their registers; of F16C clang 14 knows no such name.
  if (set == InstructionSet::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#endif
  return set == InstructionSet::portable;
}

/// The instruction set that the host products use: the widest that this processor has, found once.
/// Tests assign to it, while no product runs, to go through every path of a machine.
inline InstructionSet& instruction_set() {
  static InstructionSet chosen = supports(InstructionSet::avx512) ? InstructionSet::avx512
                                 : supports(InstructionSet::avx2) ? InstructionSet::avx2
                                                                  : InstructionSet::portable;
  return chosen;
}

inline std::string to_text(InstructionSet set) {
  return set == InstructionSet::avx512 ? "AVX-512F" : set == InstructionSet::avx2 ? "AVX2+FMA" : "portable";
}

/// Columns of a panel of the instruction set's microkernel.
template <class C> int panel_columns(InstructionSet set) {
  return microkernel<C>(set).columns;
}

/// In words: "AVX2+FMA, tiles of 6 x 16, up to 3 rows of 32".
template <class C, class S> std::string to_text(Microkernel<C, S> const& kernel) {
  std::string text = to_text(kernel.set);
  text += ", tiles of " + std::to_string(kernel.rows) + " x " + std::to_string(kernel.columns);
  if (kernel.wide_rows > 0)
    text += ", up to " + std::to_string(kernel.wide_rows) + " rows of " + std::to_string(2 * kernel.columns);
  return text;
}

/// The widest instruction set up to the one in use whose panels have so many columns; none: false.
template <class C> bool find_instruction_set(int columns, InstructionSet& found) {
  for (auto const set : {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512})
    if (supports(set) && set <= instruction_set() && panel_columns<C>(set) == columns) {
      found = set;
      return true;
    }
  return false;
}

} // namespace kokomo::inline v0::detail::host

#endif
