// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TYPES_HPP
#define KOKOMO_TYPES_HPP

#include <kokomo/half.hpp>

#include <Kokkos_Core.hpp>

#include <cstdint>
#include <type_traits>

namespace kokomo::inline v0 {

/// Ids of experts, tokens, entries and rows. A plan whose entries would not fit is refused (error 105).
using index_t = std::int32_t;
/// Offsets and extents: `row * stride` of a large prefill passes 2^31.
using offset_t = std::int64_t;

/// In place of an expert: nobody. In place of a row: not executed.
inline constexpr index_t none = -1;

/// What a storage type computes in: routing arithmetic, accumulation and losses. float, and double for double.
template <class T> using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
inline constexpr bool is_storage_v = std::is_same_v<T, float> || std::is_same_v<T, double> ||
                                     std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>;

/// The one form in which data crosses a slot: unmanaged, row-major, in the execution space's memory.
template <class T, class Exec>
using Vector = Kokkos::View<T*, Kokkos::LayoutRight, typename Exec::memory_space, Kokkos::MemoryUnmanaged>;
template <class T, class Exec>
using Matrix = Kokkos::View<T**, Kokkos::LayoutRight, typename Exec::memory_space, Kokkos::MemoryUnmanaged>;
template <class T, class Exec>
using Tensor = Kokkos::View<T***, Kokkos::LayoutRight, typename Exec::memory_space, Kokkos::MemoryUnmanaged>;

/// What parameters, gradients and state own.
template <class T, class Exec> using OwnedVector = Kokkos::View<T*, Kokkos::LayoutRight, typename Exec::memory_space>;
template <class T, class Exec> using OwnedMatrix = Kokkos::View<T**, Kokkos::LayoutRight, typename Exec::memory_space>;
template <class T, class Exec> using OwnedTensor = Kokkos::View<T***, Kokkos::LayoutRight, typename Exec::memory_space>;

/// Sizes of a layer. `tokens` is the largest batch of one call; a call may bring fewer.
struct Shape {
  offset_t tokens = 0;
  offset_t hidden = 0;
  offset_t experts = 0;
};

} // namespace kokomo::inline v0

#endif
