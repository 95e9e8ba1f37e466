// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_LAUNCH_HPP
#define KOKOMO_DETAIL_LAUNCH_HPP

#include <kokomo/types.hpp>

namespace kokomo::inline v0::detail {

/// Enqueues `functor(i)` for i in [0, count) on `exec`. Nothing is launched for nothing.
template <class Exec, class Functor>
void for_each(Exec const& exec, char const* label, offset_t count, Functor const& functor) {
  if (count <= 0) return;
  Kokkos::parallel_for(label, Kokkos::RangePolicy<Exec, Kokkos::IndexType<offset_t>>(exec, 0, count), functor);
}

template <class T, class V> struct Fill {
  T* data;
  V value;
  KOKKOS_FUNCTION void operator()(offset_t i) const { data[i] = static_cast<T>(value); }
};

/// Sets `count` elements, without the fences of Kokkos::deep_copy.
template <class Exec, class T, class V>
void fill(Exec const& exec, char const* label, T* data, offset_t count, V value) {
  for_each(exec, label, count, Fill<T, V>{data, value});
}

template <class In, class Out> struct Convert {
  In const* in;
  Out* out;
  KOKKOS_FUNCTION void operator()(offset_t i) const { out[i] = static_cast<Out>(in[i]); }
};

template <class Exec, class In, class Out>
void convert(Exec const& exec, char const* label, In const* in, Out* out, offset_t count) {
  for_each(exec, label, count, Convert<In, Out>{in, out});
}

/// The last rows of a matrix that a smaller batch does not use are cut off.
template <class M> M first_rows(M const& matrix, offset_t rows) {
  return M(matrix.data(), static_cast<std::size_t>(rows), matrix.extent(1));
}

} // namespace kokomo::inline v0::detail

#endif
