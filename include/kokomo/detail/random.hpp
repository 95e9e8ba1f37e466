// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_RANDOM_HPP
#define KOKOMO_DETAIL_RANDOM_HPP

#include <kokomo/types.hpp>

namespace kokomo::inline v0::detail {

/// A uniform number in (0, 1) that depends on its key alone: the same draw on any thread, backend and batch order.
/// The mixing step is SplitMix64 (Steele, Lea, Flood 2014).
KOKKOS_INLINE_FUNCTION double uniform(std::uint64_t seed, std::uint64_t step, offset_t token, index_t draw) {
  auto const mix = [](std::uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  };
  std::uint64_t const bits =
      mix(mix(mix(mix(seed) ^ step) ^ static_cast<std::uint64_t>(token)) ^ static_cast<std::uint64_t>(draw));
  return (static_cast<double>(bits >> 11) + 0.5) * 1.1102230246251565e-16; // 2^-53
}

/// A standard Gumbel number: argmax(z + gumbel) samples from softmax(z).
KOKKOS_INLINE_FUNCTION double gumbel(std::uint64_t seed, std::uint64_t step, offset_t token, index_t draw) {
  return -Kokkos::log(-Kokkos::log(uniform(seed, step, token, draw)));
}

/// A standard normal number (Box and Muller 1958), from the draws 2 draw and 2 draw + 1.
KOKKOS_INLINE_FUNCTION double normal(std::uint64_t seed, std::uint64_t step, offset_t token, index_t draw) {
  double const radius = Kokkos::sqrt(-2 * Kokkos::log(uniform(seed, step, token, 2 * draw)));
  return radius * Kokkos::cos(6.283185307179586477 * uniform(seed, step, token, 2 * draw + 1));
}

} // namespace kokomo::inline v0::detail

#endif
