// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_TOP_P_HPP
#define KOKOMO_ROUTER_TOP_P_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/best_first.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {

/// When the mass m of the experts taken so far is enough.
enum class Crossing {
  reaches, ///< m >= p, as the paper has it
  exceeds  ///< m > p, as the published code has it
};

namespace detail {

template <class T, class Exec> struct SelectTopP {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  VaryingScratch<T, Exec> scratch;
  C p;
  index_t at_least, at_most;
  Crossing crossing;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    index_t count = 0;
    if (!routing.masked(token)) count = choose(routing.row(token), token);
    scratch.counts[token] = count;
  }
  KOKKOS_FUNCTION index_t choose(C const* z, offset_t token) const {
    index_t const n = routing.sizes.experts;
    C* const ranks = &scratch.ranks(token, 0);
    write_ranks<SoftmaxScore, C>(routing, token, ranks);
    auto const softmax = SoftmaxScore::row(z, n);
    BestFirst<C> experts(ranks, &scratch.order(token, 0), n);
    C mass = 0;
    index_t count = 0;
    for (; count < at_most && !experts.empty(); ++count) {
      index_t const e = experts.best();
      C const probability = SoftmaxScore::value(softmax, z[e]);
      bool const enough = crossing == Crossing::reaches ? mass >= p : mass > p;
      if (!routing.selectable(e) || (count >= at_least && (enough || probability == C(0)))) break;
      mass += probability;
      experts.pop();
    }
    return count;
  }
};

} // namespace detail

/// The shortest prefix of the experts, most probable first, whose probabilities add up to p: as many experts as a token
/// needs. Probabilities are softmax(z) over all experts, whatever the gate; the expert that crosses p is taken.
///
/// Between `at_least` and `at_most` experts a token; beyond `at_least`, none of probability zero. A selection bias moves
/// the order, never the mass. Source: Huang et al. 2024 (arXiv:2403.07652), and ZhenweiAn/Dynamic_MoE.
/// \throws kokomo::Error 102 for bounds outside 1 <= at_least <= at_most <= experts, 106 unless p >= 0
struct TopP {
  float p = 0.4f;   ///< mass, >= 0; from 1 on all experts of any probability are taken
  int at_least = 1; ///< experts a token
  int at_most = 0;  ///< experts a token, 0: all; bounds the memory
  Crossing crossing = Crossing::reaches;

  template <class T, class Exec> using Scratch = detail::VaryingScratch<T, Exec>;

  offset_t entries_per_token(Sizes const& sizes) const { return detail::bounded(at_most, sizes); }
  void check(Sizes const& sizes) const {
    detail::check_bounds("TopP", at_least, at_most, sizes);
    detail::require(p >= 0, 106, "TopP p = ", p, ", expected >= 0");
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    detail::for_each(exec, "kokomo::TopP::select", a.tokens,
                     detail::SelectTopP<T, Exec>{routing, scratch, compute_t<T>(p), at_least,
                                                 detail::bounded(at_most, routing.sizes), crossing});
    detail::enter_varying(exec, "kokomo::TopP::enter", a, scratch);
  }
};

} // namespace kokomo::inline v0

#endif
