// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_ESCALATE_HPP
#define KOKOMO_ROUTER_ESCALATE_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

#include <cmath>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct SelectEscalate {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  index_t light, heavy;
  C tau;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    a.token_offsets[token] = token;
    if (token == a.tokens) return;
    C const* const z = routing.row(token);
    index_t chosen = sigmoid(z[heavy] - z[light]) > tau ? heavy : light; // NaN: light
    if (!routing.selectable(chosen)) chosen = chosen == heavy ? light : heavy;
    a.choose(token, routing.masked(token) || !routing.selectable(chosen) ? none : chosen);
  }
};

} // namespace detail

/// Two experts, a light one by default and a heavy one where its probability of winning is above tau:
///
///     heavy if sigmoid(z_heavy - z_light) > tau, else light
///
/// With a scorer that all tokens of a request share (PooledScorer, TableScorer) it decides once a request.
/// tau 0 always escalates, 1 never does. Source: NanoVLA (arXiv:2510.25122), partly: the rule as notes on the paper tell it.
/// \throws kokomo::Error 102 unless light and heavy are two experts, 106 for tau outside [0, 1]
struct Escalate {
  float tau = 0.5f;
  index_t light = 0, heavy = 1;

  offset_t entries_per_token(Sizes const&) const { return 1; }
  void check(Sizes const& sizes) const {
    detail::require(light >= 0 && heavy >= 0 && light < sizes.experts && heavy < sizes.experts && light != heavy, 102,
                    "Escalate from expert ", light, " to ", heavy, ", expected two of the ", sizes.experts);
    detail::require(tau >= 0 && tau <= 1, 106, "Escalate tau = ", tau, ", expected 0 to 1");
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Nothing const&) const {
    detail::for_each(exec, "kokomo::Escalate::select", a.tokens + 1,
                     detail::SelectEscalate<T, Exec>{routing, a, light, heavy, compute_t<T>(tau)});
  }
};

/// P(X > Y) for X ~ Beta(a1, b1) and Y ~ Beta(a2, b2): the probability that one of two arms is the better one, given its
/// successes a - 1 and failures b - 1 so far, from a uniform prior. What a router of requests is fitted to.
/// \param[in] a1 a whole number >= 1; the others > 0
inline double win_probability(int a1, double b1, double a2, double b2) {
  auto const log_beta = [](double a, double b) { return std::lgamma(a) + std::lgamma(b) - std::lgamma(a + b); };
  double sum = 0;
  for (int i = 0; i < a1; ++i)
    sum += std::exp(log_beta(a2 + i, b1 + b2) - std::log(b1 + i) - log_beta(1 + i, b1) - log_beta(a2, b2));
  return sum;
}

} // namespace kokomo::inline v0

#endif
