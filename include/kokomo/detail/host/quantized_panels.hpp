// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_QUANTIZED_PANELS_HPP
#define KOKOMO_DETAIL_HOST_QUANTIZED_PANELS_HPP

#include <kokomo/detail/host/quantized_integers.hpp>
#include <kokomo/detail/quantized_product.hpp>

/// Quantised weights as the right operand of the host's products.

namespace kokomo::inline v0::detail::host {

/// Rows of an expert up to which weights are multiplied as they are read, rather than dequantised first.
inline constexpr offset_t most_dot_rows = 12;

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

/// The same, eight columns at a time where the processor can.
template <class Format>
void dequantize_panel_fast(InstructionSet set, QuantizedRef<Format> const& w, offset_t group, offset_t column,
                           offset_t count, offset_t k, offset_t steps, float* to, offset_t pitch) {
  offset_t done = 0;
#if KOKOMO_HOST_X86
  offset_t const blocks = steps / decoded_columns, whole = blocks * decoded_columns;
  if (set != InstructionSet::portable && blocks > 0)
    for (; done + 8 <= count; done += 8) {
      if (!dequantize_octet(w, group, column + done, k, blocks, to + done, pitch))
        dequantize_panel(w, group, column + done, 8, k, whole, to + done, pitch); // there are NaN
      if (whole < steps)
        dequantize_panel(w, group, column + done, 8, k + whole, steps - whole, to + whole * pitch + done, pitch);
    }
#endif
  (void)set;
  dequantize_panel(w, group, column + done, count - done, k, steps, to + done, pitch);
}

/// A panel is dequantised while it is used, once for a block of rows.
template <class Format> struct QuantizedPanels {
  using panel_type = float;
  static constexpr bool packed = false;
  QuantizedRef<Format> weight;
  offset_t group = 0;
  offset_t columns = 0; ///< of the product
  offset_t first = 0;
  int width = 1;
  InstructionSet set = InstructionSet::portable;
  bool few_rows = false; ///< of the group, whatever of them a task has

  QuantizedPanels from(offset_t panel) const {
    return {weight, group, columns, first + panel * width, width, set, few_rows};
  }
  float const* panel(offset_t panel, offset_t k, offset_t steps, float* scratch) const {
    offset_t const column = first + panel * width, count = std::min<offset_t>(width, columns - column);
    if (count < width) std::fill_n(scratch, steps * width, 0.f);
    dequantize_panel_fast(set, weight, group, column, count, k, steps, scratch, width);
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
  offset_t columns, depth;
  int panel_columns;
  InstructionSet set;
  GroupedRows rows;

  Panels panels(index_t group) const {
    offset_t const height = rows.end(group) - rows.begin(group);
    bool const few = KOKOMO_HOST_X86 && set != InstructionSet::portable && height <= most_dot_rows &&
                     DotOperand::size(height, depth) <= Blocks<float>::left_size;
    return {weight, group, columns, 0, panel_columns, set, few};
  }
};

/// A left operand whose rows are rounded to int8 in groups while they are packed.
template <class Left> struct RoundedRows {
  Left const& left;
  InstructionSet set;

  void pack_rows(offset_t row, offset_t rows, offset_t k, offset_t depth, float* to) const {
    left.pack_rows(row, rows, k, depth, to);
    offset_t whole = 0;
#if KOKOMO_HOST_X86
    if (set != InstructionSet::portable) whole = depth / activation_group * activation_group;
#endif
    for (offset_t i = 0; i < rows; ++i, to += left_pitch<float>) {
#if KOKOMO_HOST_X86
      round_in_place(to, whole / activation_group);
#endif
      for (offset_t first = whole; first < depth; first += activation_group) {
        offset_t const last = std::min(depth, first + activation_group);
        float largest = 0;
        for (offset_t j = first; j < last; ++j) largest = larger_size(largest, to[j]);
        ActivationGrid const grid(largest);
        for (offset_t j = first; j < last; ++j) to[j] = grid(to[j]);
      }
    }
  }
};

/// What the host's products multiply quantised weights with.
template <class Format> struct QuantizedKernel {
  Microkernel<float> const* tiles = nullptr;
  Activations activations = Activations::as_stored;
  InstructionSet set = InstructionSet::portable;
  int rows = 0, columns = 0;
};

template <class Format> QuantizedKernel<Format> const& quantized_kernel(InstructionSet set, Activations activations) {
  static constexpr int sets = 3;
  static auto const kernels = [] {
    std::array<std::array<QuantizedKernel<Format>, 2>, sets> all;
    for (int s = 0; s < sets; ++s)
      for (Activations const a : {Activations::as_stored, Activations::int8}) {
        auto const& tiles = microkernel<float>(InstructionSet(s));
        all[std::size_t(s)][std::size_t(a)] = {&tiles, a, InstructionSet(s), tiles.rows, tiles.columns};
      }
    return all;
  }();
  return kernels[std::size_t(set)][std::size_t(activations)];
}

#if KOKOMO_HOST_X86
/// Columns of the product, which lie one after the other in one matrix.
template <class Format, class Operand>
void dot_panels(QuantizedPanels<Format> const& right, offset_t panels, Operand const& left, float* scales,
                float* sums) {
  offset_t const count = std::min(panels * right.width, right.columns - right.first);
  dot_all(right.weight, right.group, right.first, count, left, scales, sums, block_columns<float>);
}
template <class Format, class Operand>
void dot_panels(PairedPanels<QuantizedPanels<Format>> const& right, offset_t panels, Operand const& left, float* scales,
                float* sums) {
  dot_panels(right.gate, right.half, left, scales, sums);
  dot_panels(right.up, panels - right.half, left, scales, sums + right.half * right.gate.width);
}

/// The product with weights that are multiplied as they are read.
template <class Format, class Left, class Right, class Store>
void dot_product(Activations activations, Range rows, Left const& left, offset_t depth, Right const& right,
                 offset_t panels, Store const& store, Blocks<float> memory) {
  if constexpr (Format::integers)
    if (activations == Activations::int8) {
      auto const operand = pack_integer_operand<Format>(left, rows, depth, memory.left, memory.panel);
      dot_panels(right, panels, operand, memory.panel, memory.sums);
      return store(rows.first, rows.size(), memory.sums);
    }
  (void)activations;
  // behind the sums of the rows: the scales of one row of weights
  float* const scales = memory.panel + rows.size() * DotOperand::blocks(depth);
  auto const operand = pack_dot_operand<Format>(left, rows, depth, memory.left, memory.panel);
  dot_panels(right, panels, operand, scales, memory.sums);
  store(rows.first, rows.size(), memory.sums);
}
template <class Format> bool has_few_rows(QuantizedPanels<Format> const& right) {
  return right.few_rows;
}
template <class Format> bool has_few_rows(PairedPanels<QuantizedPanels<Format>> const& right) {
  return right.gate.few_rows;
}
#endif

/// block_product of quantised weights: with few rows weights are multiplied as they are read, otherwise panels of them are
/// dequantised, and multiplied as any others.
template <class Format, class Left, class Right, class Store>
void block_product(QuantizedKernel<Format> const& kernel, Range rows, Left const& left, offset_t depth,
                   Right const& right, offset_t panels, std::uintptr_t after, Store const& store,
                   Blocks<float> memory) {
#if KOKOMO_HOST_X86
  if (has_few_rows(right))
    return dot_product<Format>(kernel.activations, rows, left, depth, right, panels, store, memory);
#endif
  if (kernel.activations == Activations::int8)
    block_product(*kernel.tiles, rows, RoundedRows<Left>{left, kernel.set}, depth, right, panels, after, store, memory);
  else
    block_product(*kernel.tiles, rows, left, depth, right, panels, after, store, memory);
}

} // namespace kokomo::inline v0::detail::host

#endif
