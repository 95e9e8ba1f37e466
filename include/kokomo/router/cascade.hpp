// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_CASCADE_HPP
#define KOKOMO_ROUTER_CASCADE_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/best_first.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {

/// By what a cascade tells that few experts will do.
enum class Confidence {
  margin, ///< p_1 - p_2 >= threshold, of the two largest probabilities
  entropy ///< - sum p log p <= threshold, in nats
};

namespace detail {

template <class T, class Exec> struct SelectCascade {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  VaryingScratch<T, Exec> scratch;
  index_t few, many;
  Confidence by;
  C threshold;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    index_t count = 0;
    if (!routing.masked(token)) {
      C* const ranks = &scratch.ranks(token, 0);
      write_ranks<IdentityScore, C>(routing, token, ranks);
      index_t const wanted = confident(routing.row(token)) ? few : many;
      BestFirst<C> experts(ranks, &scratch.order(token, 0), routing.sizes.experts);
      for (; count < wanted && routing.selectable(experts.best()); ++count) experts.pop();
    }
    scratch.counts[token] = count;
  }
  KOKKOS_FUNCTION bool confident(C const* z) const {
    index_t const n = routing.sizes.experts;
    auto const softmax = SoftmaxScore::row(z, n);
    C first = 0, second = 0, entropy = 0;
    for (index_t e = 0; e < n; ++e) {
      C const p = SoftmaxScore::value(softmax, z[e]);
      if (p > first)
        second = first, first = p;
      else if (p > second)
        second = p;
      if (p > C(0)) entropy -= p * Kokkos::log(p);
    }
    return by == Confidence::margin ? first - second >= threshold : entropy <= threshold;
  }
};

} // namespace detail

/// Few experts where the router is sure of itself, more where it is not: the best `few` experts of a token whose margin or
/// entropy passes a threshold, else the best `many`.
///
/// Margin: threshold 0 never escalates, above 1 always does. Entropy runs the other way: log E never, below 0 always.
/// Probabilities are softmax(z), whatever the gate. The number of entries is few T + (many - few) times escalations.
/// Source: cascades after a survey of dynamic routing, only its abstract was read; the form here is ours.
/// \throws kokomo::Error 102 unless 1 <= few <= many <= experts, 106 for a threshold of NaN
struct Cascade {
  int few = 1;
  int many = 2;
  Confidence by = Confidence::margin;
  float threshold = 0.5f;

  template <class T, class Exec> using Scratch = detail::VaryingScratch<T, Exec>;

  offset_t entries_per_token(Sizes const&) const { return many; }
  void check(Sizes const& sizes) const {
    detail::require(few >= 1 && few <= many && many <= sizes.experts, 102, "Cascade few = ", few, ", many = ", many,
                    ", expected 1 <= few <= many <= ", sizes.experts);
    detail::require(threshold == threshold, 106, "Cascade threshold = ", threshold, ", expected a number");
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    detail::for_each(exec, "kokomo::Cascade::select", a.tokens,
                     detail::SelectCascade<T, Exec>{routing, scratch, few, many, by, compute_t<T>(threshold)});
    detail::enter_varying(exec, "kokomo::Cascade::enter", a, scratch);
  }
};

} // namespace kokomo::inline v0

#endif
