// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_AGREEMENT_HPP
#define KOKOMO_ROUTER_AGREEMENT_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/best_first.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/random.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct SelectAgreement {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  VaryingScratch<T, Exec> scratch;
  int probes;
  double noise;
  std::uint64_t seed;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    index_t count = 0;
    if (!routing.masked(token)) {
      index_t const n = routing.sizes.experts;
      C* const ranks = &scratch.ranks(token, 0);
      write_ranks<IdentityScore, C>(routing, token, ranks);
      for (int probe = 0; probe < probes; ++probe) {
        Rank<C> best{C(0), none};
        for (index_t e = 0; e < n; ++e) {
          if (!routing.selectable(e)) continue;
          C const draw = noise > 0 ? C(noise * normal(seed, routing.step, token, probe * n + e)) : C(0);
          Rank<C> const candidate{rankable(ranks[e] + draw), e};
          if (best.index == none || candidate.before(best)) best = candidate;
        }
        bool known = best.index == none;
        for (index_t j = 0; j < count; ++j) known = known || scratch.order(token, n - 1 - j) == best.index;
        if (!known) scratch.order(token, n - 1 - count++) = best.index;
      }
    }
    scratch.counts[token] = count;
  }
};

} // namespace detail

/// As many experts as probes disagree on: the best expert of each of several noisy looks at the logits, each once.
///
/// One expert where all probes agree, up to `probes` of them. Normal noise of standard deviation `noise`, drawn from (seed,
/// step, token, probe, expert) alone, in training and inference alike. In the order in which the probes found them.
/// Source: the agreement cascade of ACAR (arXiv:2602.21231), which probes models; probes of a router are our reading.
/// \throws kokomo::Error 102 unless probes >= 1, 106 for negative noise
struct Agreement {
  int probes = 3;
  float noise = 1;
  std::uint64_t seed = 0;

  template <class T, class Exec> using Scratch = detail::VaryingScratch<T, Exec>;

  offset_t entries_per_token(Sizes const& sizes) const { return Kokkos::min<index_t>(probes, sizes.experts); }
  void check(Sizes const&) const {
    detail::require(probes >= 1, 102, "Agreement probes = ", probes, ", expected at least 1");
    detail::require(noise >= 0, 106, "Agreement noise = ", noise, ", expected >= 0");
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    detail::for_each(exec, "kokomo::Agreement::select", a.tokens,
                     detail::SelectAgreement<T, Exec>{routing, scratch, probes, noise, seed});
    detail::enter_varying(exec, "kokomo::Agreement::enter", a, scratch);
  }
};

} // namespace kokomo::inline v0

#endif
