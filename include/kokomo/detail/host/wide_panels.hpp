// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_WIDE_PANELS_HPP
#define KOKOMO_DETAIL_HOST_WIDE_PANELS_HPP

#include <kokomo/detail/host/panels.hpp>

namespace kokomo::inline v0::detail::host {

/// Two matrices one below the other: `split` steps of the depth of `top`, and then `bottom`.
template <class S, class C> struct StackedPanels {
  using panel_type = C;
  static constexpr bool packed = false;
  UnpackedPanels<S, C> top, bottom;
  offset_t split;

  StackedPanels from(offset_t panel) const { return {top.from(panel), bottom.from(panel), split}; }
  C const* panel(offset_t panel, offset_t k, offset_t steps, C* scratch) const {
    if (k >= split) return bottom.panel(panel, k - split, steps, scratch);
    offset_t const above = std::min(steps, split - k);
    C const* const packed = top.panel(panel, k, above, scratch);
    if (above < steps) (void)bottom.panel(panel, 0, steps - above, scratch + above * top.width);
    return packed;
  }
  std::uintptr_t address(offset_t panel, offset_t k) const {
    return k < split ? top.address(panel, k) : bottom.address(panel, k - split);
  }
  offset_t list_lines(offset_t steps, offset_t* offsets, offset_t limit) const {
    return top.list_lines(steps, offsets, limit);
  }
};

/// Columns of a matrix that are packed together.
template <class C> inline constexpr offset_t wide_columns = 256 / sizeof(C);

/// Panels that are packed several at a time where each step of a panel is a line of its own, as in a product with the
/// transpose of a weight: one panel alone would take a single cache line from each of hundreds of pages of memory.
/// Panels must be asked for in ascending order.
template <class Panels> struct WidePanels {
  using panel_type = typename Panels::panel_type;
  static constexpr bool packed = false;
  using C = panel_type;

  /// \param[in] panels that will be asked for
  /// \param[in] buffer block_depth * wide_columns elements
  WidePanels(Panels const& inner, offset_t panels, C* buffer)
      : m_inner(inner), m_panels(panels), m_buffer(buffer), m_wide(matrix(inner).along_depth),
        m_group(std::max<offset_t>(1, wide_columns<C> / width())) {}

  C const* panel(offset_t panel, offset_t k, offset_t steps, C* scratch) const {
    if (!m_wide) return m_inner.panel(panel, k, steps, scratch);
    offset_t const place = panel % m_group, size = steps * width();
    constexpr offset_t together = 16; // steps
    if (place == 0)
      for (offset_t at = 0; at < steps; at += together)
        for (offset_t p = 0; p < std::min(m_group, m_panels - panel); ++p)
          (void)m_inner.panel(panel + p, k + at, std::min(together, steps - at), m_buffer + p * size + at * width());
    return m_buffer + place * size;
  }

  /// What block_product prefetches: while the panels of one group are multiplied, each a part of the steps of the next.
  std::uintptr_t address(offset_t panel, offset_t k) const {
    if (!m_wide || panel == 0) return m_inner.address(panel, k);
    offset_t const before = panel - 1, next = (before / m_group + 1) * m_group;
    offset_t const part = k + before % m_group * (block_depth<C> / m_group);
    return next < m_panels ? m_inner.address(next, part) : m_inner.address(0, part + block_depth<C>);
  }
  offset_t list_lines(offset_t steps, offset_t* offsets, offset_t limit) const {
    if (!m_wide) return m_inner.list_lines(steps, offsets, limit);
    auto const lines = matrix(m_inner);
    return lines.list_panel_lines(m_group * width(), divide_up(steps, m_group), offsets, limit);
  }

private:
  template <class S> static Operand<S, C> const& matrix(UnpackedPanels<S, C> const& panels) { return panels.matrix; }
  template <class S> static Operand<S, C> const& matrix(StackedPanels<S, C> const& panels) { return panels.top.matrix; }
  int width() const {
    if constexpr (requires { m_inner.width; })
      return m_inner.width;
    else
      return m_inner.top.width;
  }

  Panels m_inner;
  offset_t m_panels;
  C* m_buffer;
  bool m_wide;
  offset_t m_group;
};

} // namespace kokomo::inline v0::detail::host

#endif
