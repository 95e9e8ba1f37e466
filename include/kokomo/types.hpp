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

/// In place of a compile-time size: it is a setting.
inline constexpr int dynamic = -1;

/// What a storage type computes in: routing arithmetic, accumulation and losses. float, and double for double.
template <class T> using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
inline constexpr bool is_storage_v =
    std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>;

/// The value after a trip through storage type T: what published code that works in T would hold.
template <class T, class C> KOKKOS_FUNCTION C rounded_to(C value) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return static_cast<C>(bfloat16::rounded(static_cast<float>(value)));
  else
    return static_cast<C>(static_cast<T>(value));
}

/// The one form in which data crosses a slot: unmanaged, row-major, in the execution space's memory.
template <class T, class Exec>
using Vector = Kokkos::View<T*, Kokkos::LayoutRight, typename Exec::memory_space, Kokkos::MemoryUnmanaged>;
template <class T, class Exec>
using Matrix = Kokkos::View<T**, Kokkos::LayoutRight, typename Exec::memory_space, Kokkos::MemoryUnmanaged>;

/// What parameters, gradients and state own.
template <class T, class Exec> using OwnedVector = Kokkos::View<T*, Kokkos::LayoutRight, typename Exec::memory_space>;
template <class T, class Exec> using OwnedMatrix = Kokkos::View<T**, Kokkos::LayoutRight, typename Exec::memory_space>;
template <class T, class Exec> using OwnedTensor = Kokkos::View<T***, Kokkos::LayoutRight, typename Exec::memory_space>;

/// Sizes of a layer. `tokens` is the largest batch of one call; a call may bring fewer.
struct Shape {
  offset_t tokens = 0;        ///< >= 0
  offset_t hidden = 0;        ///< >= 1, width of the layer's input and output
  offset_t experts = 0;       ///< >= 1, routed experts with weights (zero-computation experts come on top)
  offset_t router_hidden = 0; ///< width of the router's input where it reads another tensor; 0: hidden
};

/// Training and inference differ as an argument of a call, never as a global.
enum class Mode { inference, training };

/// What a scorer's Inputs inherit from if it does something else in training, or draws random numbers: the layer fills
/// it in from the call.
struct CallInfo {
  Mode mode = Mode::inference;
  std::uint64_t step = 0;
};

/// Whether backward replaces what stands in the gradients or adds to it.
enum class Write { overwrite, add };

/// What every policy lays its memory out from. Filled by the layer from Shape and settings.
struct Sizes {
  offset_t tokens = 0;
  offset_t hidden = 0;
  offset_t router_width = 0; ///< columns of the router's input
  index_t experts = 0;       ///< routed experts that can be chosen, zero-computation ones included
  index_t weighted = 0;      ///< of these, experts with weights
  index_t columns = 0;       ///< logits a token: what the scorer says, else experts and jointly weighed shared ones
  index_t shared = 0;        ///< shared experts
  offset_t per_token = 0;    ///< most entries of one token
  offset_t entries = 0;      ///< most entries of a batch: what the selector says, else tokens * per_token
  int workers = 0;           ///< host worker threads; 0 on a device
};

} // namespace kokomo::inline v0

#endif
