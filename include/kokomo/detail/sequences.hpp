// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_SEQUENCES_HPP
#define KOKOMO_DETAIL_SEQUENCES_HPP

#include <kokomo/types.hpp>

namespace kokomo::inline v0::detail {

/// A batch cut into sequences of equal length, the last one perhaps shorter: the setting `tokens_per_sequence`, 0 for
/// one sequence of all tokens.
struct Sequences {
  offset_t tokens = 0;
  offset_t length = 1; // >= 1

  Sequences(offset_t all, offset_t tokens_per_sequence)
      : tokens(all), length(tokens_per_sequence > 0 ? tokens_per_sequence : Kokkos::max(all, offset_t(1))) {}

  KOKKOS_FUNCTION offset_t count() const { return (tokens + length - 1) / length; }
  KOKKOS_FUNCTION offset_t begin(offset_t sequence) const { return sequence * length; }
  KOKKOS_FUNCTION offset_t end(offset_t sequence) const { return Kokkos::min(tokens, (sequence + 1) * length); }
  KOKKOS_FUNCTION offset_t of(offset_t token) const { return token / length; }
};

} // namespace kokomo::inline v0::detail

#endif
