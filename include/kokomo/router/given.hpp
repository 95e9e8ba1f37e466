// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_GIVEN_HPP
#define KOKOMO_ROUTER_GIVEN_HPP

#include <kokomo/argument.hpp>
#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct SelectGiven {
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  Matrix<index_t const, Exec> experts;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    auto const k = static_cast<int>(experts.extent(1));
    offset_t const first = token * k;
    a.token_offsets[token] = first;
    if (token == a.tokens) return;
    bool const masked = routing.masked(token);
    for (int j = 0; j < k; ++j) {
      index_t chosen = masked ? none : experts(token, j);
      if (chosen != none && (chosen < 0 || chosen >= routing.sizes.experts)) {
        Kokkos::atomic_inc(&routing.status->invalid_ids);
        chosen = none;
      }
      a.choose(first + j, chosen);
    }
  }
};

} // namespace detail

/// The caller brings the choice: a recorded routing replayed, samples drawn elsewhere, a decision for a whole sequence.
///
/// Inputs: `experts` [tokens, k], expert ids in any order, `none` (-1) for no expert; an id outside the experts routes
/// nowhere and is counted in Status::invalid_ids. The gate still weighs by the logits.
/// \throws kokomo::Error 102 unless k >= 1, 203 where the ids are missing
struct Given {
  int k = 1; ///< ids a token

  template <class T, class Exec> struct Inputs {
    MatrixArgument<index_t const, Exec> experts{}; ///< [tokens, k]

    template <class F> void for_each(F&& f) const { f(Name{"", "experts"}, experts); }
  };

  offset_t entries_per_token(Sizes const&) const { return k; }
  void check(Sizes const&) const { detail::require(k >= 1, 102, "k = ", k, " experts a token, expected k >= 1"); }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    (void)inputs.experts.checked("inputs.selector.experts", {sizes.tokens, k});
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Inputs<T, Exec> const& inputs,
              Assignment<T, Exec> const& a, Nothing const&) const {
    auto const experts = inputs.experts.checked("inputs.selector.experts", {a.tokens, k});
    detail::for_each(exec, "kokomo::Given::select", a.tokens + 1, detail::SelectGiven<T, Exec>{routing, a, experts});
  }
};

} // namespace kokomo::inline v0

#endif
