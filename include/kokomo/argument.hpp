// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ARGUMENT_HPP
#define KOKOMO_ARGUMENT_HPP

#include <kokomo/error.hpp>
#include <kokomo/types.hpp>

#include <array>

namespace kokomo::inline v0 {

/// Any Kokkos View that a caller passes: rank, element type and memory space are checked while compiling, extents and
/// contiguity when a layer uses it. Turning every View into one canonical type first means one instantiation of the
/// kernels a policy, whatever the caller's View types. A default-constructed Argument stands for "not given".
template <class T, class Exec, int Rank> class Argument {
public:
  Argument() = default;

  template <class V>
  requires(Kokkos::is_view_v<V>) Argument(V const& view) : m_given(true) {
    using Element = typename V::value_type;
    static_assert(V::rank() == Rank, "kokomo: this argument must be a Kokkos::View of the rank that the docs name "
                                     "(matrices [rows, columns] have rank 2, vectors rank 1)");
    static_assert(std::is_same_v<std::remove_const_t<Element>, std::remove_const_t<T>>,
                  "kokomo: the element type of this View must be the layer's storage type (or index type)");
    static_assert(std::is_const_v<T> || !std::is_const_v<Element>,
                  "kokomo: this View is written to, so its elements must not be const");
    static_assert(bool(Kokkos::SpaceAccessibility<Exec, typename V::memory_space>::accessible),
                  "kokomo: the memory space of this View must be accessible from the layer's execution space");
    if constexpr (std::is_convertible_v<Element*, T*>) m_data = view.data(); // else one message is enough
    for (int d = 0; d < Rank; ++d) {
      m_extent[d] = static_cast<offset_t>(view.extent(d));
      m_stride[d] = static_cast<offset_t>(view.stride(d));
    }
  }

  bool given() const { return m_given; }
  offset_t extent(int d) const { return m_extent[d]; }

  /// The canonical View, if its extents are these and it is contiguous row-major.
  /// \throws kokomo::Error 201 if an extent differs, 203 if it is missing, 301 if it is not contiguous
  auto checked(char const* name, std::array<offset_t, Rank> expected) const {
    if (!m_given) detail::fail(203, name, " is missing: this composition of policies reads it");
    if (m_extent != expected) detail::fail(201, name, " has extents ", list(m_extent), ", expected ", list(expected));
    bool const empty = m_extent[0] == 0 || m_extent[Rank - 1] == 0;
    offset_t stride = 1;
    for (int d = Rank - 1; d >= 0; --d) {
      if (!empty && m_extent[d] != 1 && m_stride[d] != stride)
        detail::fail(301, name, " has strides ", list(m_stride), ", expected a contiguous row-major View of extents ",
                     list(m_extent));
      stride *= m_extent[d];
    }
    if constexpr (Rank == 1)
      return Vector<T, Exec>(m_data, std::size_t(m_extent[0]));
    else
      return Matrix<T, Exec>(m_data, std::size_t(m_extent[0]), std::size_t(m_extent[1]));
  }

  /// First and behind last address.
  std::array<void const*, 2> range() const {
    offset_t last = 0;
    for (int d = 0; d < Rank; ++d) {
      if (m_extent[d] == 0) return {m_data, m_data};
      last += (m_extent[d] - 1) * m_stride[d];
    }
    return {m_data, m_given ? m_data + last + 1 : m_data};
  }

private:
  static std::string list(std::array<offset_t, Rank> const& values) {
    std::string text = "[" + std::to_string(values[0]);
    for (int d = 1; d < Rank; ++d) text += ", " + std::to_string(values[d]);
    return text + "]";
  }

  T* m_data = nullptr;
  std::array<offset_t, Rank> m_extent{};
  std::array<offset_t, Rank> m_stride{};
  bool m_given = false;
};

template <class T, class Exec> using MatrixArgument = Argument<T, Exec, 2>;
template <class T, class Exec> using VectorArgument = Argument<T, Exec, 1>;

} // namespace kokomo::inline v0

#endif
