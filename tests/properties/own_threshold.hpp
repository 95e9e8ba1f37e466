// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_PROPERTIES_OWN_THRESHOLD_HPP
#define KOKOMO_TESTS_PROPERTIES_OWN_THRESHOLD_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/check.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/error.hpp>

/// A selector as a user writes one: one file, no registration, no change in the library.
namespace own {

using kokomo::index_t;
using kokomo::offset_t;

template <class Score, class T, class Exec> struct SelectAbove {
  kokomo::Routing<T, Exec> routing;
  kokomo::Assignment<T, Exec> a;
  kokomo::compute_t<T> threshold;
  bool counts; // first pass: how many; second: which

  KOKKOS_FUNCTION void operator()(int token) const {
    auto const* z = routing.row(token);
    auto const row = Score::row(z, routing.sizes.experts);
    offset_t next = counts ? 0 : a.token_offsets[token];
    for (index_t e = 0; e < routing.sizes.experts && !routing.masked(token); ++e) {
      auto rank = Score::value(row, z[e]);
      if (routing.bias.data() != nullptr) rank += routing.bias[e];
      if (!(rank > threshold)) continue; // NaN is not above anything
      if (!counts) a.choose(next, e);
      ++next;
    }
    if (counts) a.token_offsets[token + 1] = next;
  }
};

template <class T, class Exec> struct ScanTokens {
  kokomo::Assignment<T, Exec> a;
  KOKKOS_FUNCTION void operator()(int) const {
    a.token_offsets[0] = 0;
    for (offset_t t = 0; t < a.tokens; ++t) a.token_offsets[t + 1] += a.token_offsets[t];
  }
};

/// Every expert whose score is above the threshold: any number of them, none too.
struct Threshold {
  float threshold = 0.5f;

  offset_t entries_per_token(kokomo::Sizes const& sizes) const { return sizes.experts; }
  void check(kokomo::Sizes const&) const {
    kokomo::detail::require(threshold < 1, 106, "Threshold threshold = ", threshold, ", expected below 1");
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, kokomo::Routing<T, Exec> const& routing, kokomo::Nothing const&, kokomo::Nothing const&,
              kokomo::Assignment<T, Exec> const& a, kokomo::Nothing const&) const {
    Kokkos::RangePolicy<Exec> const tokens(exec, 0, int(a.tokens));
    Kokkos::parallel_for("own::Threshold::count", tokens, SelectAbove<GateScore, T, Exec>{routing, a, threshold, true});
    Kokkos::parallel_for("own::Threshold::scan", Kokkos::RangePolicy<Exec>(exec, 0, 1), ScanTokens<T, Exec>{a});
    Kokkos::parallel_for("own::Threshold::select", tokens,
                         SelectAbove<GateScore, T, Exec>{routing, a, threshold, false});
  }
};
static_assert(kokomo::SelectorPolicy<Threshold>); // the contract is checked where the policy is written

} // namespace own

#endif
