// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_DOCS_POSITIVE_HPP
#define KOKOMO_TESTS_DOCS_POSITIVE_HPP

// [snippet:positive]
#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/error.hpp>

namespace user {

template <class Score, class T, class Exec> struct SelectPositive {
  using C = kokomo::compute_t<T>;
  kokomo::Routing<T, Exec> routing;
  kokomo::Assignment<T, Exec> assignment;
  C threshold;
  int at_most;

  /// One step of a scan over tokens: `entries` is where the token's entries begin.
  KOKKOS_FUNCTION void operator()(kokomo::offset_t token, kokomo::offset_t& entries, bool final) const {
    if (final) assignment.token_offsets[token] = entries;
    if (token == assignment.tokens || routing.masked(token)) return; // a masked token has no entries
    kokomo::index_t const experts = routing.sizes.experts;
    C const* const z = routing.row(token);
    auto const row = Score::row(z, experts);
    kokomo::index_t last = kokomo::none;
    C last_rank = 0;
    for (int j = 0; j < at_most; ++j) { // best first; ties to the smaller index
      kokomo::index_t best = kokomo::none;
      C best_rank = threshold;
      for (kokomo::index_t e = 0; e < experts; ++e) {
        C const rank = Score::value(row, z[e]) + (routing.bias.data() != nullptr ? routing.bias[e] : C(0));
        bool const remains = last == kokomo::none || rank < last_rank || (rank == last_rank && e > last);
        if (remains && rank > best_rank) best = e, best_rank = rank; // false for NaN
      }
      if (best == kokomo::none) return;
      if (final) assignment.choose(entries, best);
      ++entries;
      last = best, last_rank = best_rank;
    }
  }
};

/// Every expert whose rank (score of the gate plus selection bias) is above a threshold; the best `at_most` of them.
/// \throws kokomo::Error 102 unless 1 <= at_most <= experts
struct Positive {
  float threshold = 0;
  int at_most = 8; ///< bounds the memory: the layer plans for this many entries a token

  kokomo::offset_t entries_per_token(kokomo::Sizes const&) const { return at_most; }

  void check(kokomo::Sizes const& sizes) const {
    if (at_most < 1 || at_most > sizes.experts)
      throw kokomo::Error(102, "Positive at_most = " + std::to_string(at_most) + ", expected 1 to " +
                                   std::to_string(sizes.experts));
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, kokomo::Routing<T, Exec> const& routing, kokomo::Nothing const&, kokomo::Nothing const&,
              kokomo::Assignment<T, Exec> const& assignment, kokomo::Nothing const&) const {
    Kokkos::parallel_scan(
        "user::Positive::select",
        Kokkos::RangePolicy<Exec, Kokkos::IndexType<kokomo::offset_t>>(exec, 0, assignment.tokens + 1),
        SelectPositive<GateScore, T, Exec>{routing, assignment, kokomo::compute_t<T>(threshold), at_most});
  }
};

} // namespace user
// [/snippet]

#endif
