// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_LAUNCH_HPP
#define KOKOMO_DETAIL_LAUNCH_HPP

#include <kokomo/types.hpp>

#include <algorithm>
#include <string>
#include <type_traits>

namespace kokomo::inline v0::detail {

/// Whether an execution space works in ordinary host memory, and so can run the code of `detail/host/`.
template <class Exec>
inline constexpr bool runs_on_host_v = std::is_same_v<typename Exec::memory_space, Kokkos::HostSpace>;

/// A loop over [0, count) in `shares` equal parts, behind a function pointer: for Kokkos all loops on a host are one
/// functor, so that each of ours costs a compiler a function, and not the dozens that one more Kokkos::parallel_for does.
/// It points to the caller's functor: Serial, OpenMP and Threads have run a loop when parallel_for returns.
struct HostLoop {
  void (*run)(void const* functor, offset_t begin, offset_t end);
  void const* functor;
  offset_t count, shares;

  KOKKOS_FUNCTION void operator()(offset_t share) const {
    run(functor, share * count / shares, (share + 1) * count / shares);
  }
};

template <class Exec> void launch(Exec const& exec, std::string const& label, HostLoop const& loop) {
  using Policy = Kokkos::RangePolicy<Exec, Kokkos::Schedule<Kokkos::Static>, Kokkos::IndexType<offset_t>>;
  Kokkos::parallel_for(label, Policy(exec, 0, loop.shares), loop);
}

/// Runs `functor(i)` for i in [0, count) in `shares` parts, each on one thread and in ascending order.
template <class Exec, class Functor>
void for_each_share(Exec const& exec, std::string const& label, offset_t count, offset_t shares,
                    Functor const& functor) {
  auto const run = [](void const* erased, offset_t begin, offset_t end) {
    Functor const& each = *static_cast<Functor const*>(erased);
    for (offset_t i = begin; i < end; ++i) each(i);
  };
  launch(exec, label, HostLoop{run, &functor, count, shares});
}

/// Enqueues `functor(i)` for i in [0, count) on `exec`. Nothing is launched for nothing.
template <class Exec, class Functor>
void for_each(Exec const& exec, std::string const& label, offset_t count, Functor const& functor) {
  if (count <= 0) return;
  if constexpr (runs_on_host_v<Exec>)
    for_each_share(exec, label, count, std::min(count, static_cast<offset_t>(exec.concurrency())), functor);
  else
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
