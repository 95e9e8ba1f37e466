// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_QUANTIZED_PRODUCT_HPP
#define KOKOMO_DETAIL_QUANTIZED_PRODUCT_HPP

#include <kokomo/quantization/tensor.hpp>

namespace kokomo::inline v0 {

/// What experts of quantised weights multiply them with.
enum class Activations {
  as_stored, ///< the layer's rows, in float32
  int8       ///< rounded to multiples of max|a| / 127 in groups of 32: products are then of integers
};

namespace detail {

/// Columns of a row that are rounded to int8 together.
inline constexpr offset_t activation_group = 32;

/// The grid that a group of activations is rounded to.
struct ActivationGrid {
  float step = 0, inverse = 0;

  KOKKOS_FUNCTION explicit ActivationGrid(float largest) : step(largest / 127) {
    if (step >= 1.17549435e-38f) inverse = 1 / step; // groups that small are zeros
    if (!Kokkos::isfinite(step)) step = Kokkos::Experimental::quiet_NaN_v<float>;
  }
  KOKKOS_FUNCTION std::int32_t integer(float value) const { return round_to_even(value * inverse); }
  KOKKOS_FUNCTION float operator()(float value) const { return float(integer(value)) * step; }
};

/// The larger of a and |b|, or NaN where either is.
KOKKOS_FUNCTION inline float larger_size(float a, float b) {
  float const size = Kokkos::abs(b);
  return size > a || size != size ? size : a;
}

/// out(r, n) = sum_k a(r, k) * w(g, n, k) + bias(g, n) with quantised w: one thread an element. What a device runs, and the
/// reference of what a host does.
template <class Format, class S, class C, class SB, class SO> struct QuantizedProduct {
  GroupedRows groups;
  RowSource<S, C> a;
  offset_t depth;
  QuantizedRef<Format> w;
  BiasRef<SB const> bias;
  offset_t columns;
  RowTarget<SO> out;
  Activations activations;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const row = i / columns, n = i % columns;
    if (!groups.contains(row)) return;
    offset_t const g = groups.group_of(row);
    C sum = 0;
    for (offset_t first = 0; first < depth; first += activation_group) {
      offset_t const last = Kokkos::min(depth, first + activation_group);
      if (activations == Activations::int8) {
        float largest = 0;
        for (offset_t k = first; k < last; ++k) largest = larger_size(largest, static_cast<float>(a(row, k)));
        ActivationGrid const grid(largest);
        for (offset_t k = first; k < last; ++k) sum += C(grid(static_cast<float>(a(row, k)))) * C(w(g, n, k));
      } else {
        for (offset_t k = first; k < last; ++k) sum += a(row, k) * C(w(g, n, k));
      }
    }
    if (bias.data != nullptr) sum += C(bias.data[g * bias.group_stride + n * bias.n_stride]);
    out.data[row * out.stride + n] = SO(sum);
  }
};

} // namespace detail
} // namespace kokomo::inline v0

#endif
