// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_PACK_HPP
#define KOKOMO_DETAIL_HOST_PACK_HPP

#include <kokomo/detail/host/octet.hpp>
#include <kokomo/detail/host/quad.hpp>
#include <kokomo/detail/operands.hpp>

#include <algorithm>
#include <cstdint>

namespace kokomo::inline v0::detail::host {

/// A matrix as lines of elements: gathered and scaled line by line, `step` apart within a line.
/// The lines run either across the summed index (one line a row or column of the result) or along it.
template <class S, class C> struct Operand {
  S const* data = nullptr;
  offset_t stride = 0;
  offset_t step = 1;
  index_t const* index = nullptr;
  C const* scale = nullptr;
  bool along_depth = false; ///< line number = summed index, rather than row or column of the result

  S const* line(offset_t l) const { return data + (index != nullptr ? offset_t(index[l]) : l) * stride; }
  C factor(offset_t l) const { return scale != nullptr ? scale[l] : C(1); }

  /// to[i * pitch + k], what a microkernel's left operand is. Rows that are gathered are no stream that a processor
  /// foresees, so the next steps of each row are prefetched.
  void pack_rows(offset_t row, offset_t rows, offset_t k, offset_t depth, C* to, offset_t pitch = left_pitch<C>) const {
    if (along_depth) return transpose_lines(k, depth, row, rows, to, pitch);
    copy_lines(row, rows, k, depth, to, pitch);
    if (step != 1) return;
    for (offset_t i = 0; i < rows; ++i) {
      auto const next = reinterpret_cast<std::uintptr_t>(line(row + i)) + std::uintptr_t(k + depth) * sizeof(S);
      for (offset_t byte = 0; byte < depth * offset_t(sizeof(S)); byte += 64)
        __builtin_prefetch(reinterpret_cast<void const*>(next + std::uintptr_t(byte)), 0, 2);
    }
  }
  /// to[k * panel + j], what its right operand is. Columns of the panel that the matrix does not have become zero.
  void pack_panel(offset_t column, offset_t columns, offset_t k, offset_t depth, C* to, offset_t panel) const {
    if (columns < panel) std::fill_n(to, depth * panel, C(0));
    if (along_depth)
      copy_lines(k, depth, column, columns, to, panel);
    else
      transpose_lines(column, columns, k, depth, to, panel);
  }

  /// Where the panel at (column, k) begins, and where its cache lines lie from there: at most `limit` offsets. None for
  /// a gathered operand, whose panels differ.
  std::uintptr_t panel_address(offset_t column, offset_t k) const {
    return reinterpret_cast<std::uintptr_t>(data) +
           std::uintptr_t((along_depth ? k * stride + column * step : column * stride + k * step) *
                          offset_t(sizeof(S)));
  }
  offset_t list_panel_lines(offset_t columns, offset_t depth, offset_t* offsets, offset_t limit) const {
    if (index != nullptr) return 0;
    offset_t const lines = along_depth ? depth : columns, length = along_depth ? columns : depth;
    offset_t listed = 0;
    for (offset_t l = 0; l < lines; ++l)
      for (offset_t byte = 0; byte < length * step * offset_t(sizeof(S)) && listed < limit; byte += 64)
        offsets[listed++] = l * stride * offset_t(sizeof(S)) + byte;
    return listed;
  }

private:
  /// to[l * pitch + x] = element from + x of line first + l
  void copy_lines(offset_t first, offset_t lines, offset_t from, offset_t length, C* to, offset_t pitch) const {
    offset_t const whole = step == 1 ? length - length % 4 : 0;
    [[maybe_unused]] bool const octets = has_octets<C>() && step == 1;
    for (offset_t l = 0; l < lines; ++l, to += pitch) {
      S const* const source = line(first + l) + from * step;
      C const f = factor(first + l);
      offset_t x = 0;
#if KOKOMO_HOST_X86
      if constexpr (std::is_same_v<C, float> && !std::is_same_v<S, double>)
        if (octets) x = copy_octets(source, length, f, to);
#endif
      for (; x < whole; x += 4) (Quad<C>::load(source + x) * Quad<C>::broadcast(f)).store(to + x);
      for (; x < length; ++x) to[x] = f * static_cast<C>(source[x * step]);
    }
  }

  /// to[x * pitch + l] = element from + x of line first + l
  void transpose_lines(offset_t first, offset_t lines, offset_t from, offset_t length, C* to, offset_t pitch) const {
    offset_t l = 0;
#if KOKOMO_HOST_X86
    if constexpr (std::is_same_v<C, float> && !std::is_same_v<S, double>)
      if (has_octets<C>() && step == 1)
        for (; l + 8 <= lines; l += 8) {
          S const* source[8];
          C f[8];
          for (int i = 0; i < 8; ++i) source[i] = line(first + l + i) + from, f[i] = factor(first + l + i);
          offset_t const whole = transpose_octets(source, f, scale != nullptr, length, to + l, pitch);
          for (int i = 0; i < 8; ++i)
            for (offset_t x = whole; x < length; ++x) to[x * pitch + l + i] = f[i] * static_cast<C>(source[i][x]);
        }
#endif
    if (step == 1)
      for (; l + 4 <= lines; l += 4) transpose_quads(first + l, from, length, to + l, pitch);
    for (; l < lines; ++l) {
      S const* const source = line(first + l) + from * step;
      C const f = factor(first + l);
      for (offset_t x = 0; x < length; ++x) to[x * pitch + l] = f * static_cast<C>(source[x * step]);
    }
  }

  void transpose_quads(offset_t first, offset_t from, offset_t length, C* to, offset_t pitch) const {
    offset_t const whole = length - length % 4;
    S const* const source[4] = {line(first) + from, line(first + 1) + from, line(first + 2) + from,
                                line(first + 3) + from};
    C const f[4] = {factor(first), factor(first + 1), factor(first + 2), factor(first + 3)};
    for (offset_t x = 0; x < whole; x += 4, to += 4 * pitch) {
      auto a = Quad<C>::load(source[0] + x), b = Quad<C>::load(source[1] + x);
      auto c = Quad<C>::load(source[2] + x), d = Quad<C>::load(source[3] + x);
      if (scale != nullptr) {
        a = a * Quad<C>::broadcast(f[0]), b = b * Quad<C>::broadcast(f[1]);
        c = c * Quad<C>::broadcast(f[2]), d = d * Quad<C>::broadcast(f[3]);
      }
      transpose(a, b, c, d);
      a.store(to);
      b.store(to + pitch);
      c.store(to + 2 * pitch);
      d.store(to + 3 * pitch);
    }
    for (offset_t x = whole; x < length; ++x, to += pitch)
      for (int i = 0; i < 4; ++i) to[i] = f[i] * static_cast<C>(source[i][x]);
  }
};

/// The rows of a source from `first` on, as lines.
template <class S, class C> Operand<S, C> operand(RowSource<S, C> const& source, offset_t first, bool along_depth) {
  bool const gathered = source.index != nullptr;
  return {.data = gathered ? source.data : source.data + first * source.stride,
          .stride = source.stride,
          .index = gathered ? source.index + first : nullptr,
          .scale = source.scale != nullptr ? source.scale + first : nullptr,
          .along_depth = along_depth};
}

/// The matrix of one group of weights, with its lines along the dimension that lies contiguous in memory.
template <class C, class S> Operand<S, C> operand(WeightRef<S const> const& weight, offset_t group) {
  bool const along_depth = weight.n_stride == 1 && weight.k_stride != 1;
  return {.data = weight.data + group * weight.group_stride,
          .stride = along_depth ? weight.k_stride : weight.n_stride,
          .step = along_depth ? weight.n_stride : weight.k_stride,
          .along_depth = along_depth};
}

/// target[i * step] (=|+=) values[i]
template <class C, class S> void write_line(C const* values, offset_t count, S* target, offset_t step, Write write) {
  offset_t const whole = step == 1 ? count - count % 4 : 0;
  if (write == Write::overwrite) {
    for (offset_t i = 0; i < whole; i += 4) Quad<C>::load(values + i).store(target + i);
    for (offset_t i = whole; i < count; ++i) target[i * step] = static_cast<S>(values[i]);
  } else {
    for (offset_t i = 0; i < whole; i += 4) (Quad<C>::load(target + i) + Quad<C>::load(values + i)).store(target + i);
    for (offset_t i = whole; i < count; ++i)
      target[i * step] = static_cast<S>(static_cast<C>(target[i * step]) + values[i]);
  }
}

/// values[i] += source[i * step]
template <class C, class S> void add_line(S const* source, offset_t step, offset_t count, C* values) {
  offset_t const whole = step == 1 ? count - count % 4 : 0;
  for (offset_t i = 0; i < whole; i += 4) (Quad<C>::load(values + i) + Quad<C>::load(source + i)).store(values + i);
  for (offset_t i = whole; i < count; ++i) values[i] += static_cast<C>(source[i * step]);
}

} // namespace kokomo::inline v0::detail::host

#endif
