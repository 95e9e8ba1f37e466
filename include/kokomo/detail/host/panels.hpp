// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_PANELS_HPP
#define KOKOMO_DETAIL_HOST_PANELS_HPP

#include <kokomo/detail/host/microkernel.hpp>
#include <kokomo/detail/host/pack.hpp>

namespace kokomo::inline v0::detail::host {

inline offset_t divide_up(offset_t x, offset_t y) {
  return (x + y - 1) / y;
}

// The right operand of a product, as a sequence of panels of some columns and the whole depth. Either they are packed
// while they are used:

/// The columns of a matrix from `first` on, cut into panels.
template <class S, class C> struct UnpackedPanels {
  using panel_type = C;
  static constexpr bool packed = false;
  Operand<S, C> matrix;
  offset_t columns = 0; ///< of the matrix
  offset_t first = 0;
  int width = 1;

  UnpackedPanels from(offset_t panel) const { return {matrix, columns, first + panel * width, width}; }
  /// Steps k .. k + steps of one panel, packed; `scratch` has room for it.
  C const* panel(offset_t panel, offset_t k, offset_t steps, C* scratch) const {
    offset_t const column = first + panel * width;
    matrix.pack_panel(column, std::min<offset_t>(width, columns - column), k, steps, scratch, width);
    return scratch;
  }
  std::uintptr_t address(offset_t panel, offset_t k) const { return matrix.panel_address(first + panel * width, k); }
  offset_t list_lines(offset_t steps, offset_t* offsets, offset_t limit) const {
    return matrix.list_panel_lines(width, steps, offsets, limit);
  }
};

/// Or they have been packed once and for all: each panel is `depth` times `width` elements, the next begins `stride`
/// elements on.
template <class S> struct PackedPanels {
  using panel_type = S;
  static constexpr bool packed = true;
  S const* data = nullptr;
  offset_t stride = 0;
  int width = 1;

  PackedPanels from(offset_t panel) const { return {data + panel * stride, stride, width}; }
  template <class C> S const* panel(offset_t panel, offset_t k, offset_t, C*) const {
    return data + panel * stride + k * width;
  }
  std::uintptr_t address(offset_t panel, offset_t k) const {
    return reinterpret_cast<std::uintptr_t>(data) + std::uintptr_t((panel * stride + k * width) * offset_t(sizeof(S)));
  }
  /// Bytes of so many steps of a panel, which lie side by side.
  offset_t bytes(offset_t steps) const { return steps * width * offset_t(sizeof(S)); }
};

/// Two matrices side by side, `half` panels of each: what gate and up projections are to one block of columns.
template <class Panels> struct PairedPanels {
  using panel_type = typename Panels::panel_type;
  static constexpr bool packed = Panels::packed;
  Panels gate, up;
  offset_t half;

  template <class C> panel_type const* panel(offset_t panel, offset_t k, offset_t steps, C* scratch) const {
    return panel < half ? gate.panel(panel, k, steps, scratch) : up.panel(panel - half, k, steps, scratch);
  }
  std::uintptr_t address(offset_t panel, offset_t k) const {
    return panel < half ? gate.address(panel, k) : up.address(panel - half, k);
  }
  offset_t list_lines(offset_t steps, offset_t* offsets, offset_t limit) const {
    return gate.list_lines(steps, offsets, limit);
  }
  offset_t bytes(offset_t steps) const { return gate.bytes(steps); }
};

/// Panels of a matrix, and the elements of its packed form.
inline offset_t panel_count(offset_t columns, int width) {
  return divide_up(columns, width);
}
inline offset_t packed_size(offset_t columns, offset_t depth, int width) {
  return panel_count(columns, width) * width * depth;
}

/// Packs one panel of a matrix, `columns` columns from `first` on, into `to` [depth, width]: a copy of the elements, zero
/// where the matrix ends before the panel does.
template <class S>
void pack_panel(WeightRef<S const> const& from, offset_t group, offset_t first, offset_t columns, offset_t depth,
                int width, S* to) {
  constexpr offset_t block = 64; // steps: the lines of a block stay in the L1 cache
  for (offset_t k = 0; k < depth; k += block) {
    offset_t const end = std::min(depth, k + block);
    for (int j = 0; j < width; ++j) {
      S* target = to + k * width + panel_place<S>(j, width);
      S const* source = from.data + group * from.group_stride + (first + j) * from.n_stride + k * from.k_stride;
      if (j < columns)
        for (offset_t i = k; i < end; ++i, target += width, source += from.k_stride) *target = *source;
      else
        for (offset_t i = k; i < end; ++i, target += width) *target = S(0.f);
    }
  }
}

/// Packs the matrices of all groups: matrix g, panel p to `to` + g * group_stride + p * panel_stride. A task is a panel.
template <class S> struct PackPanels {
  WeightRef<S const> from;
  offset_t columns, depth;
  int width;
  S* to;
  offset_t group_stride, panel_stride;

  void operator()(offset_t task) const {
    offset_t const panels = panel_count(columns, width), group = task / panels, panel = task % panels;
    pack_panel(from, group, panel * width, std::min<offset_t>(width, columns - panel * width), depth, width,
               to + group * group_stride + panel * panel_stride);
  }
};

} // namespace kokomo::inline v0::detail::host

#endif
