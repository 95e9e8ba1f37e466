// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_QUANTIZATION_TENSOR_HPP
#define KOKOMO_QUANTIZATION_TENSOR_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/operands.hpp>
#include <kokomo/quantization/formats.hpp>

namespace kokomo::inline v0 {

namespace detail {

/// Where the codes and scales of one matrix an expert stand: row n of expert g at codes + g * expert_bytes + n * row_bytes.
struct PackedLayout {
  offset_t expert_bytes = 0, row_bytes = 0;
  offset_t expert_scales = 0, block_scales = 0; ///< the second from one block of rows to the next
};

/// One quantised matrix an expert, addressed as (n, k) = (row, column).
template <class Format> struct QuantizedRef {
  using Scale = typename Format::Scale;
  std::uint8_t const* codes = nullptr;
  Scale const* scales = nullptr;
  std::uint8_t const* zeros = nullptr;
  PackedLayout at;

  KOKKOS_FUNCTION std::uint8_t const* row(offset_t g, offset_t n) const {
    return codes + g * at.expert_bytes + n * at.row_bytes;
  }
  /// Of the first scale of a row; its zero points stand alike.
  KOKKOS_FUNCTION offset_t first_scale(offset_t g, offset_t n) const {
    return g * at.expert_scales + n / Format::row_block * at.block_scales;
  }
  KOKKOS_FUNCTION static offset_t group_of(offset_t k) {
    if constexpr (Format::group == 0)
      return 0;
    else
      return k / Format::group;
  }
  KOKKOS_FUNCTION static std::uint8_t code(std::uint8_t const* row, offset_t k) {
    if constexpr (Format::bits == 8)
      return row[k];
    else
      return std::uint8_t(row[k / 2] >> (k % 2 * 4) & 15);
  }
  /// The weight, in float32.
  KOKKOS_FUNCTION float operator()(offset_t g, offset_t n, offset_t k) const {
    offset_t const scale = first_scale(g, n) + group_of(k);
    return Format::dequantize(code(row(g, n), k), scales[scale], Format::zero_points ? zeros[scale] : std::uint8_t(0));
  }
};

/// Quantises one block of rows and columns: a call a scale.
template <class Format, class T> struct QuantizeBlock {
  using Scale = typename Format::Scale;
  WeightRef<T const> from;
  std::uint8_t* codes;
  Scale* scales;
  std::uint8_t* zeros;
  PackedLayout at;
  offset_t rows, columns, row_blocks, groups;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const group = i % groups, block = i / groups % row_blocks, g = i / groups / row_blocks;
    offset_t const width = Format::group == 0 ? columns : offset_t(Format::group);
    offset_t const first_row = block * Format::row_block, first = group * width;
    offset_t const last_row = Kokkos::min(rows, first_row + Format::row_block);
    offset_t const last = Kokkos::min(columns, first + width);
    float lowest = Kokkos::Experimental::infinity_v<float>, highest = -lowest;
    bool finite = true;
    for (offset_t n = first_row; n < last_row; ++n)
      for (offset_t k = first; k < last; ++k) {
        float const w = static_cast<float>(from(g, n, k));
        finite = finite && Kokkos::isfinite(w);
        lowest = Kokkos::min(lowest, w), highest = Kokkos::max(highest, w);
      }
    if (!finite) lowest = highest = Kokkos::Experimental::quiet_NaN_v<float>;

    offset_t const place = g * at.expert_scales + block * at.block_scales + group;
    Scale const scale = Format::scale_for(lowest, highest);
    std::uint8_t const zero = Format::zero_for(lowest, highest, scale);
    scales[place] = scale;
    if (Format::zero_points) zeros[place] = zero;
    for (offset_t n = first_row; n < last_row; ++n) {
      std::uint8_t* const row = codes + g * at.expert_bytes + n * at.row_bytes;
      for (offset_t k = first; k < last; ++k) {
        std::uint8_t const code = Format::encode(static_cast<float>(from(g, n, k)), scale, zero);
        if constexpr (Format::bits == 8)
          row[k] = code;
        else // a group begins with a byte, which the even column clears
          row[k / 2] = std::uint8_t(k % 2 == 0 ? code : row[k / 2] | code << 4);
      }
    }
  }
};

template <class Format, class T> struct DequantizeElement {
  QuantizedRef<Format> from;
  WeightRef<T> to;
  offset_t rows, columns;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const k = i % columns, n = i / columns % rows, g = i / columns / rows;
    to(g, n, k) = static_cast<T>(from(g, n, k));
  }
};

} // namespace detail

/// Quantised matrices of all experts, [experts, rows, columns], stored as
///
///     codes  [experts, rows, ceil(columns * bits / 8)] bytes
///     scales [experts, row blocks, groups]   groups = ceil(columns / group), or 1
///     zeros  [experts, row blocks, groups]   only of formats with zero points
///
/// Rows may be `parts` matrices of as many rows one after the other (gate, then up); blocks of rows begin anew with each.
/// Each View of a published tensor of this layout can be filled by copying its bytes.
template <class Format, class Exec> struct QuantizedTensor {
  OwnedTensor<std::uint8_t, Exec> codes;
  OwnedTensor<typename Format::Scale, Exec> scales;
  OwnedTensor<std::uint8_t, Exec> zeros;

  QuantizedTensor() = default;
  QuantizedTensor(Allocator<Exec> const& allocate, std::string const& name, offset_t experts, offset_t parts,
                  offset_t rows, offset_t columns) {
    offset_t const blocks = parts * row_blocks(rows), of_row = groups(columns);
    allocate(codes, name + "_codes", experts, parts * rows, row_bytes(columns));
    allocate(scales, name + "_scales", experts, blocks, of_row);
    if (Format::zero_points) allocate(zeros, name + "_zeros", experts, blocks, of_row);
  }

  static offset_t row_bytes(offset_t columns) { return (columns * Format::bits + 7) / 8; }
  static offset_t groups(offset_t columns) {
    if constexpr (Format::group == 0)
      return 1;
    else
      return (columns + Format::group - 1) / Format::group;
  }
  static offset_t row_blocks(offset_t rows) { return (rows + Format::row_block - 1) / Format::row_block; }

  /// Rows first, first + step, ... as one matrix an expert. `step` is 1 where a block has several rows.
  detail::QuantizedRef<Format> matrix(offset_t first = 0, offset_t step = 1) const {
    auto const layout = layout_of(step);
    offset_t const scale = row_blocks(first) * static_cast<offset_t>(scales.extent(2));
    return {codes.data() + first * static_cast<offset_t>(codes.extent(2)), scales.data() + scale,
            zeros.data() == nullptr ? nullptr : zeros.data() + scale, layout};
  }

  /// Quantises `rows` x `columns` weights of each expert into those rows. Asynchronous; the same bits for any number of
  /// threads.
  template <class T>
  void quantize(Exec const& exec, detail::WeightRef<T const> const& from, offset_t rows, offset_t columns,
                offset_t first = 0, offset_t step = 1) const {
    offset_t const scale = row_blocks(first) * static_cast<offset_t>(scales.extent(2));
    offset_t const blocks = row_blocks(rows), of_row = groups(columns);
    detail::for_each(
        exec, "kokomo::QuantizedTensor::quantize", static_cast<offset_t>(codes.extent(0)) * blocks * of_row,
        detail::QuantizeBlock<Format, T>{
            from, codes.data() + first * static_cast<offset_t>(codes.extent(2)), scales.data() + scale,
            zeros.data() == nullptr ? nullptr : zeros.data() + scale, layout_of(step), rows, columns, blocks, of_row});
  }
  /// The other way round, rounded to T once.
  template <class T>
  void dequantize(Exec const& exec, detail::WeightRef<T> const& to, offset_t rows, offset_t columns, offset_t first = 0,
                  offset_t step = 1) const {
    detail::for_each(exec, "kokomo::QuantizedTensor::dequantize",
                     static_cast<offset_t>(codes.extent(0)) * rows * columns,
                     detail::DequantizeElement<Format, T>{matrix(first, step), to, rows, columns});
  }

private:
  detail::PackedLayout layout_of(offset_t step) const {
    auto const bytes = static_cast<offset_t>(codes.extent(2)), of_row = static_cast<offset_t>(scales.extent(2));
    return {static_cast<offset_t>(codes.extent(1)) * bytes, step * bytes,
            static_cast<offset_t>(scales.extent(1)) * of_row, step * of_row};
  }
};

} // namespace kokomo::inline v0

#endif
