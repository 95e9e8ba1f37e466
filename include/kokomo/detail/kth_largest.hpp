// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_KTH_LARGEST_HPP
#define KOKOMO_DETAIL_KTH_LARGEST_HPP

#include <kokomo/types.hpp>

#include <type_traits>

namespace kokomo::inline v0::detail {

/// Integers in the order of the numbers that they stand for: 0 is a NaN below -infinity, the largest one above infinity.
template <class C> using ordered_bits_t = std::conditional_t<sizeof(C) == 4, std::uint32_t, std::uint64_t>;

template <class C> KOKKOS_FUNCTION C from_ordered_bits(ordered_bits_t<C> bits) {
  using Bits = ordered_bits_t<C>;
  constexpr Bits sign = Bits(1) << (8 * sizeof(C) - 1);
  return Kokkos::bit_cast<C>((bits & sign) != 0 ? Bits(bits ^ sign) : Bits(~bits));
}

/// The k-th largest of value(0) .. value(n - 1), k >= 1; -infinity where there are fewer. NaN counts as nothing.
///
/// Finds the number bit by bit, most significant first, by counting what is not below it: at most 32 passes (64 in
/// float64) of comparisons alone, which a compiler turns into vector code; in place, whatever n and k, and the same on
/// host and device. It stops as soon as a bound leaves exactly k.
template <class C, class Values> KOKKOS_FUNCTION C kth_largest(Values const& value, offset_t n, offset_t k) {
  using Bits = ordered_bits_t<C>;
  using Count = std::conditional_t<sizeof(C) == 4, std::int32_t, std::int64_t>; // as wide as what is compared
  constexpr C infinity = Kokkos::Experimental::infinity_v<C>;
  Bits found = 0;
  for (Bits bit = Bits(1) << (8 * sizeof(C) - 1); bit != 0; bit >>= 1) {
    C const bound = from_ordered_bits<C>(found | bit);
    if (bound != bound) continue; // a NaN: nothing is above infinity, and -infinity is what remains at the end
    Count count = 0;
    for (offset_t i = 0; i < n; ++i) count += value(i) >= bound ? 1 : 0;
    if (count < k) continue;
    found |= bit;
    if (count > k) continue;
    C smallest = infinity;
    for (offset_t i = 0; i < n; ++i) {
      C const candidate = value(i);
      if (candidate >= bound && candidate < smallest) smallest = candidate;
    }
    return smallest;
  }
  C const result = from_ordered_bits<C>(found);
  return result == result ? result : -infinity;
}

/// The numbers of an array.
template <class C> struct ArrayValues {
  C const* data;
  KOKKOS_FUNCTION C operator()(offset_t i) const { return data[i]; }
};
/// Their differences with a second array.
template <class C> struct DifferenceValues {
  C const* data;
  C const* subtracted;
  KOKKOS_FUNCTION C operator()(offset_t i) const { return data[i] - subtracted[i]; }
};

} // namespace kokomo::inline v0::detail

#endif
