// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_QUAD_HPP
#define KOKOMO_DETAIL_HOST_QUAD_HPP

#include <kokomo/detail/host/microkernel.hpp>

namespace kokomo::inline v0::detail::host {

/// Four consecutive elements in compute type, read from and written to any storage type: what packing and storing are
/// made of. The general form is plain loops; float has an SSE2 form, which every x86-64 processor runs.
template <class C> struct Quad {
  C lane[4];

  template <class S> static Quad load(S const* p) {
    return {{static_cast<C>(p[0]), static_cast<C>(p[1]), static_cast<C>(p[2]), static_cast<C>(p[3])}};
  }
  static Quad broadcast(C value) { return {{value, value, value, value}}; }
  template <class S> void store(S* p) const {
    for (int i = 0; i < 4; ++i) p[i] = static_cast<S>(lane[i]);
  }
  friend Quad operator+(Quad x, Quad const& y) {
    for (int i = 0; i < 4; ++i) x.lane[i] += y.lane[i];
    return x;
  }
  friend Quad operator*(Quad x, Quad const& y) {
    for (int i = 0; i < 4; ++i) x.lane[i] *= y.lane[i];
    return x;
  }
  /// Lane j of the i-th becomes lane i of the j-th.
  friend void transpose(Quad& a, Quad& b, Quad& c, Quad& d) {
    std::swap(a.lane[1], b.lane[0]);
    std::swap(a.lane[2], c.lane[0]);
    std::swap(a.lane[3], d.lane[0]);
    std::swap(b.lane[2], c.lane[1]);
    std::swap(b.lane[3], d.lane[1]);
    std::swap(c.lane[3], d.lane[2]);
  }
};

#if KOKOMO_HOST_X86
template <> struct Quad<float> {
  __m128 lanes;

  static Quad load(float const* p) { return {_mm_loadu_ps(p)}; }
  static Quad load(bfloat16 const* p) { // the bits are the upper half of the float's
    return {_mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), load_bits(p)))};
  }
  /// float16's exponent and mantissa, moved to their place in a float, need 112 added to the exponent; infinity and NaN
  /// another 112; zero and subnormals, whose exponent field 0 means 2^-14, are renormalised by an exact subtraction.
  static Quad load(float16 const* p) {
    __m128i const half = _mm_unpacklo_epi16(load_bits(p), _mm_setzero_si128());
    __m128i const sign = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x8000)), 16);
    __m128i const magnitude = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x7fff)), 13);
    __m128i const rebias = _mm_set1_epi32(112 << 23);
    __m128i const special = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x0f7fffff));
    __m128i const tiny = _mm_cmplt_epi32(magnitude, _mm_set1_epi32(0x00800000));
    __m128i const normal = _mm_add_epi32(_mm_add_epi32(magnitude, rebias), _mm_and_si128(special, rebias));
    __m128i const lifted = _mm_add_epi32(magnitude, _mm_set1_epi32(113 << 23));
    __m128i const subnormal =
        _mm_castps_si128(_mm_sub_ps(_mm_castsi128_ps(lifted), _mm_castsi128_ps(_mm_set1_epi32(113 << 23))));
    __m128i const value = _mm_or_si128(_mm_and_si128(tiny, subnormal), _mm_andnot_si128(tiny, normal));
    return {_mm_castsi128_ps(_mm_or_si128(value, sign))};
  }
  template <class S> static Quad load(S const* p) {
    return {_mm_setr_ps(float(p[0]), float(p[1]), float(p[2]), float(p[3]))};
  }
  static Quad broadcast(float value) { return {_mm_set1_ps(value)}; }

  void store(float* p) const { _mm_storeu_ps(p, lanes); }
  void store(bfloat16* p) const { // as bfloat16's own conversion: to nearest, ties to even, NaN stays NaN
    __m128i const u = _mm_castps_si128(lanes);
    __m128i const odd = _mm_and_si128(_mm_srli_epi32(u, 16), _mm_set1_epi32(1));
    __m128i const rounded = _mm_add_epi32(u, _mm_add_epi32(odd, _mm_set1_epi32(0x7fff)));
    __m128i const nan = _mm_castps_si128(_mm_cmpunord_ps(lanes, lanes));
    __m128i const quiet = _mm_or_si128(u, _mm_set1_epi32(0x00400000));
    __m128i const value = _mm_or_si128(_mm_and_si128(nan, quiet), _mm_andnot_si128(nan, rounded));
    __m128i const high = _mm_srai_epi32(value, 16);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi32(high, high));
  }
  template <class S> void store(S* p) const {
    float lane[4];
    _mm_storeu_ps(lane, lanes);
    for (int i = 0; i < 4; ++i) p[i] = static_cast<S>(lane[i]);
  }

  friend Quad operator+(Quad x, Quad y) { return {_mm_add_ps(x.lanes, y.lanes)}; }
  friend Quad operator*(Quad x, Quad y) { return {_mm_mul_ps(x.lanes, y.lanes)}; }
  friend void transpose(Quad& a, Quad& b, Quad& c, Quad& d) { _MM_TRANSPOSE4_PS(a.lanes, b.lanes, c.lanes, d.lanes); }

private:
  static __m128i load_bits(void const* p) { return _mm_loadl_epi64(static_cast<__m128i const*>(p)); }
};
#endif

} // namespace kokomo::inline v0::detail::host

#endif
