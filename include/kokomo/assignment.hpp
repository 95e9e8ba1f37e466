// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ASSIGNMENT_HPP
#define KOKOMO_ASSIGNMENT_HPP

#include <kokomo/detail/arena.hpp>
#include <kokomo/detail/operands.hpp>
#include <kokomo/types.hpp>

namespace kokomo::inline v0 {

/// Who computes what: a sparse matrix of (token, expert, weight), stored twice.
///
/// Token-major (CSR): token t owns the entries token_offsets[t] .. token_offsets[t + 1], best choice first where the
/// selector ranks. An entry whose expert is `none` routes nowhere; an entry whose row is `none` was chosen but is not
/// executed (dropped by capacity). Tokens may own no entries, and each its own number of them.
///
/// Expert-major: the executed entries as rows, grouped by expert, in token order within each expert (stable): expert e
/// owns the rows expert_offsets[e] .. expert_offsets[e + 1]. Selectors, capacity and gates write the first part,
/// grouping the second. Everything that selects produces an Assignment, everything that computes consumes it.
template <class T, class Exec> struct Assignment {
  using storage_type = T;
  using compute_type = compute_t<T>;

  offset_t tokens = 0;
  index_t experts = 0;

  Vector<offset_t, Exec> token_offsets;     ///< [tokens + 1]
  Vector<index_t, Exec> expert;             ///< [entries] chosen expert, or none
  Vector<compute_type, Exec> weight;        ///< [entries] written by the gate
  Vector<index_t, Exec> row;                ///< [entries] its row, or none; before grouping 0 stands for "executed"
  Vector<offset_t, Exec> expert_offsets;    ///< [experts + 1]
  Vector<index_t, Exec> entry_of_row;       ///< [entries]
  Vector<index_t, Exec> token_of_row;       ///< [entries]
  Vector<index_t, Exec> expert_of_row;      ///< [entries]
  Vector<compute_type, Exec> weight_of_row; ///< [entries]

  Assignment() = default;
  Assignment(detail::Arena& arena, offset_t token_count, index_t expert_count, offset_t entries)
      : tokens(token_count), experts(expert_count), token_offsets(arena.vector<offset_t, Exec>(token_count + 1)),
        expert(arena.vector<index_t, Exec>(entries)), weight(arena.vector<compute_type, Exec>(entries)),
        row(arena.vector<index_t, Exec>(entries)), expert_offsets(arena.vector<offset_t, Exec>(expert_count + 1)),
        entry_of_row(arena.vector<index_t, Exec>(entries)), token_of_row(arena.vector<index_t, Exec>(entries)),
        expert_of_row(arena.vector<index_t, Exec>(entries)), weight_of_row(arena.vector<compute_type, Exec>(entries)) {}

  /// Upper bound of the entries, known on the host; the used ones are token_offsets[tokens] on the device.
  offset_t entries() const { return static_cast<offset_t>(expert.extent(0)); }

  /// The rows of experts [0, count) as an operand of grouped products.
  detail::GroupedRows grouped(index_t count) const {
    return {expert_offsets.data(), expert_of_row.data(), count, entries()};
  }

  KOKKOS_FUNCTION void choose(offset_t entry, index_t chosen) const {
    expert[entry] = chosen;
    row[entry] = chosen == none ? none : 0;
  }
};

} // namespace kokomo::inline v0

#endif
