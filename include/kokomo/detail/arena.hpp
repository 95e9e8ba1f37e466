// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_ARENA_HPP
#define KOKOMO_DETAIL_ARENA_HPP

#include <kokomo/types.hpp>

#include <cstddef>

namespace kokomo::inline v0::detail {

/// Hands out aligned pieces of one block of memory; with no block it only counts.
///
/// Planning and running execute the same layout function, once with each, so that size and use cannot disagree.
class Arena {
public:
  static constexpr std::size_t alignment = 64;

  explicit Arena(std::byte* base = nullptr) : m_base(base) {}

  template <class T> T* take(offset_t count) {
    std::size_t const at = m_used;
    m_used += (static_cast<std::size_t>(count) * sizeof(T) + alignment - 1) / alignment * alignment;
    return m_base == nullptr ? nullptr : reinterpret_cast<T*>(m_base + at);
  }
  template <class T, class Exec> Vector<T, Exec> vector(offset_t count) {
    return Vector<T, Exec>(take<T>(count), static_cast<std::size_t>(count));
  }
  template <class T, class Exec> Matrix<T, Exec> matrix(offset_t rows, offset_t columns) {
    return Matrix<T, Exec>(take<T>(rows * columns), static_cast<std::size_t>(rows), static_cast<std::size_t>(columns));
  }

  std::size_t used() const { return m_used; }

private:
  std::byte* m_base;
  std::size_t m_used = 0;
};

} // namespace kokomo::inline v0::detail

#endif
