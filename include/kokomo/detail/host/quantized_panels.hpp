// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_QUANTIZED_PANELS_HPP
#define KOKOMO_DETAIL_HOST_QUANTIZED_PANELS_HPP

#include <kokomo/detail/host/product.hpp>
#include <kokomo/detail/quantized_product.hpp>

/// Quantised weights as the right operand of the host's products.

namespace kokomo::inline v0::detail::host {

/// to[i * pitch + j] = weight (column + j, k + i) for `count` rows of the matrix: columns of the product.
template <class Format>
void dequantize_panel(QuantizedRef<Format> const& w, offset_t group, offset_t column, offset_t count, offset_t k,
                      offset_t steps, float* to, offset_t pitch) {
  for (offset_t j = 0; j < count; ++j) {
    std::uint8_t const* const row = w.row(group, column + j);
    offset_t const scales = w.first_scale(group, column + j);
    for (offset_t i = 0; i < steps; ++i) {
      offset_t const at = scales + w.group_of(k + i);
      to[i * pitch + j] =
          Format::dequantize(w.code(row, k + i), w.scales[at], Format::zero_points ? w.zeros[at] : std::uint8_t(0));
    }
  }
}

/// A panel is dequantised while it is used, once for a block of rows.
template <class Format> struct QuantizedPanels {
  using panel_type = float;
  QuantizedRef<Format> weight;
  offset_t group = 0;
  offset_t columns = 0; ///< of the product
  offset_t first = 0;
  int width = 1;

  QuantizedPanels from(offset_t panel) const { return {weight, group, columns, first + panel * width, width}; }
  float const* panel(offset_t panel, offset_t k, offset_t steps, float* scratch) const {
    offset_t const column = first + panel * width, count = std::min<offset_t>(width, columns - column);
    if (count < width) std::fill_n(scratch, steps * width, 0.f);
    dequantize_panel(weight, group, column, count, k, steps, scratch, width);
    return scratch;
  }
  std::uintptr_t address(offset_t panel, offset_t k) const {
    return reinterpret_cast<std::uintptr_t>(weight.row(group, first + panel * width)) +
           std::uintptr_t(k * Format::bits / 8);
  }
  offset_t list_lines(offset_t steps, offset_t* offsets, offset_t limit) const {
    offset_t listed = 0;
    for (offset_t j = 0; j < width; ++j)
      for (offset_t byte = 0; byte < steps * Format::bits / 8 && listed < limit; byte += 64)
        offsets[listed++] = j * weight.at.row_bytes + byte;
    return listed;
  }
};

/// The matrices of all groups.
template <class Format> struct QuantizedWeights {
  using Panels = QuantizedPanels<Format>;
  QuantizedRef<Format> weight;
  offset_t columns;
  int panel_columns;

  Panels panels(index_t group) const { return {weight, group, columns, 0, panel_columns}; }
};

/// A left operand whose rows are rounded to int8 in groups while they are packed.
template <class Left> struct RoundedRows {
  Left const& left;

  void pack_rows(offset_t row, offset_t rows, offset_t k, offset_t depth, float* to) const {
    left.pack_rows(row, rows, k, depth, to);
    for (offset_t i = 0; i < rows; ++i, to += block_depth<float>)
      for (offset_t first = 0; first < depth; first += activation_group) {
        offset_t const last = std::min(depth, first + activation_group);
        float largest = 0;
        for (offset_t j = first; j < last; ++j) largest = larger_size(largest, to[j]);
        ActivationGrid const grid(largest);
        for (offset_t j = first; j < last; ++j) to[j] = grid(to[j]);
      }
  }
};

/// What the host's products multiply quantised weights with.
template <class Format> struct QuantizedKernel {
  Microkernel<float> const* tiles = nullptr;
  Activations activations = Activations::as_stored;
  int rows = 0, columns = 0;
};

template <class Format> QuantizedKernel<Format> const& quantized_kernel(InstructionSet set, Activations activations) {
  static constexpr int sets = 3;
  static auto const kernels = [] {
    std::array<std::array<QuantizedKernel<Format>, 2>, sets> all;
    for (int s = 0; s < sets; ++s)
      for (Activations const a : {Activations::as_stored, Activations::int8}) {
        auto const& tiles = microkernel<float>(InstructionSet(s));
        all[std::size_t(s)][std::size_t(a)] = {&tiles, a, tiles.rows, tiles.columns};
      }
    return all;
  }();
  return kernels[std::size_t(set)][std::size_t(activations)];
}

/// block_product of quantised weights: panels are dequantised, and multiplied as any others.
template <class Format, class Left, class Right, class Store>
void block_product(QuantizedKernel<Format> const& kernel, Range rows, Left const& left, offset_t depth,
                   Right const& right, offset_t panels, std::uintptr_t after, Store const& store,
                   Blocks<float> memory) {
  if (kernel.activations == Activations::int8)
    block_product(*kernel.tiles, rows, RoundedRows<Left>{left}, depth, right, panels, after, store, memory);
  else
    block_product(*kernel.tiles, rows, left, depth, right, panels, after, store, memory);
}

} // namespace kokomo::inline v0::detail::host

#endif
