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

/// Or they have been packed once and for all: panel after panel, each `depth` times `width` elements.
template <class S> struct PackedPanels {
  using panel_type = S;
  S const* data = nullptr;
  offset_t depth = 0;
  int width = 1;

  PackedPanels from(offset_t panel) const { return {data + panel * depth * width, depth, width}; }
  template <class C> S const* panel(offset_t panel, offset_t k, offset_t, C*) const {
    return data + (panel * depth + k) * width;
  }
  std::uintptr_t address(offset_t panel, offset_t k) const {
    return reinterpret_cast<std::uintptr_t>(data) + std::uintptr_t((panel * depth + k) * width * offset_t(sizeof(S)));
  }
  offset_t list_lines(offset_t steps, offset_t* offsets, offset_t limit) const {
    offset_t const count = std::min(limit, divide_up(steps * width * offset_t(sizeof(S)), 64));
    for (offset_t i = 0; i < count; ++i) offsets[i] = 64 * i;
    return count;
  }
};

/// Two matrices side by side, `half` panels of each: what gate and up projections are to one block of columns.
template <class Panels> struct PairedPanels {
  using panel_type = typename Panels::panel_type;
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
};

/// Elements of the packed form of one matrix.
inline offset_t packed_size(offset_t columns, offset_t depth, int width) {
  return divide_up(columns, width) * width * depth;
}

/// Packs panels [first, last) of a matrix into `to`, which is the packed form of the whole matrix. Exact: C holds every S.
template <class S, class C>
void pack_panels(UnpackedPanels<S, C> const& from, offset_t depth, offset_t first, offset_t last, S* to) {
  C block[block_depth<C> * max_panel_columns<C> / 4]; // a quarter of a worker's panel
  offset_t const most_steps = block_depth<C> / 4;
  for (offset_t p = first; p < last; ++p)
    for (offset_t k = 0; k < depth; k += most_steps) {
      offset_t const steps = std::min(most_steps, depth - k);
      C const* const packed = from.panel(p, k, steps, block);
      S* const target = to + (p * depth + k) * from.width;
      for (offset_t i = 0; i < steps; ++i)
        for (int j = 0; j < from.width; ++j)
          target[i * from.width + panel_place<S>(j, from.width)] = static_cast<S>(packed[i * from.width + j]);
    }
}

} // namespace kokomo::inline v0::detail::host

#endif
