// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_GUMBEL_TOP_K_HPP
#define KOKOMO_ROUTER_GUMBEL_TOP_K_HPP

#include <kokomo/detail/random.hpp>
#include <kokomo/router/top_k.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct SelectGumbel {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  Matrix<C, Exec> ranks;
  int k;
  bool samples;
  std::uint64_t seed;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    offset_t const first = token * k;
    a.token_offsets[token] = first;
    if (token == a.tokens) return;
    if (routing.masked(token)) {
      for (int j = 0; j < k; ++j) a.choose(first + j, none);
      return;
    }
    index_t const n = routing.sizes.experts;
    C* const row = &ranks(token, 0);
    write_ranks<IdentityScore, C>(routing, token, row);
    if (samples)
      for (index_t e = 0; e < n; ++e) row[e] = rankable(row[e] + C(gumbel(seed, routing.step, token, e)));
    for_each_best(row, n, k,
                  [&](int j, index_t expert) { a.choose(first + j, routing.selectable(expert) ? expert : none); });
  }
};

/// One token's ordered choice i_1 .. i_k as a draw without replacement from q = softmax(z): of each place, the logits that
/// were left and the logarithm of their sum of exponentials. Sums are taken over what is left rather than subtracted from
/// one, so that nothing cancels where the chosen ones hold all of the mass.
template <class T, class Exec> struct OrderedDraw {
  using C = compute_t<T>;
  Routing<T, Exec> const& routing;
  Assignment<T, Exec> const& a;
  offset_t token;
  C const* z = routing.row(token);

  KOKKOS_FUNCTION bool left(index_t e, offset_t place) const {
    if (!routing.selectable(e) || !(rank(e) > -Kokkos::Experimental::infinity_v<C>)) return false;
    for (offset_t i = a.token_offsets[token]; i < place; ++i)
      if (a.expert[i] == e) return false;
    return true;
  }
  KOKKOS_FUNCTION C rank(index_t e) const { return routing.bias.data() != nullptr ? z[e] + routing.bias[e] : z[e]; }
  KOKKOS_FUNCTION C log_sum(offset_t place) const {
    C max = -Kokkos::Experimental::infinity_v<C>;
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      if (left(e, place) && rank(e) > max) max = rank(e);
    C sum = 0;
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      if (left(e, place)) sum += Kokkos::exp(rank(e) - max);
    return max + Kokkos::log(sum);
  }
  /// Whether the expert of a place was drawn from something.
  KOKKOS_FUNCTION bool drawn(offset_t place) const { return a.expert[place] != none && left(a.expert[place], place); }
};

template <class T, class Exec> struct DrawLogProbability {
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  Vector<compute_t<T>, Exec> out;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    OrderedDraw<T, Exec> const draw{routing, a, token};
    compute_t<T> sum = 0;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      if (draw.drawn(i)) sum += draw.rank(a.expert[i]) - draw.log_sum(i);
    out[token] = sum;
  }
};

template <class T, class Exec> struct DrawLogProbabilityGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  Vector<C const, Exec> factor;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    OrderedDraw<T, Exec> const draw{routing, a, token};
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      if (!draw.drawn(i)) continue;
      C const log_sum = draw.log_sum(i);
      d_logits(token, a.expert[i]) += factor[token];
      for (index_t e = 0; e < routing.sizes.experts; ++e)
        if (draw.left(e, i)) d_logits(token, e) -= factor[token] * Kokkos::exp(draw.rank(e) - log_sum);
    }
  }
};

} // namespace detail

/// In training, k experts drawn one after the other, without replacement, from softmax(z); in inference the k best.
///
/// The draw adds Gumbel noise to the logits and takes the k largest in order, which has the law of the sequential draw,
/// Q(i_1 .. i_k) = prod_j q_ij / (1 - sum over j' < j of q_ij'). It depends on (seed, step, token) alone: M draws for the
/// same batch are M calls with M values of Inputs::step, or of the seed. The logarithm of Q, and its gradient for a
/// score-function estimator, are below. A selection bias shifts the logits that are drawn from.
/// Source: ReMix, its paper's text; Gumbel top-k after Vieira 2014 and Kool et al. 2019 (arXiv:1903.06059) (unverified).
/// \throws kokomo::Error 102 unless 1 <= k <= experts
struct GumbelTopK {
  int k = 2;
  std::uint64_t seed = 0;
  bool sample_in_inference = false;

  template <class T, class Exec> using Scratch = detail::RankScratch<T, Exec>;

  offset_t entries_per_token(Sizes const&) const { return k; }
  void check(Sizes const& sizes) const { detail::check_k(k, sizes); }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    bool const samples = sample_in_inference || routing.mode == Mode::training;
    detail::for_each(exec, "kokomo::GumbelTopK::select", a.tokens + 1,
                     detail::SelectGumbel<T, Exec>{routing, a, scratch.ranks, k, samples, seed});
  }
};

/// log Q of each token's ordered choice under sequential draws without replacement from softmax(z). What was chosen may
/// come from GumbelTopK or from elsewhere. O(tokens k^2 E). Asynchronous on exec.
/// \param[in] routing of the call: logits, sizes.experts and, if selection had them, bias and expert mask
/// \param[out] out [tokens]; 0 for a token that chose nobody
template <class T, class Exec>
void draw_log_probability(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                          Vector<compute_t<T>, Exec> const& out) {
  detail::for_each(exec, "kokomo::draw_log_probability", a.tokens,
                   detail::DrawLogProbability<T, Exec>{routing, a, out});
}

/// d_logits += factor[t] d log Q_t / dz.
template <class T, class Exec>
void draw_log_probability_gradient(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                                   Vector<compute_t<T> const, Exec> const& factor,
                                   Matrix<compute_t<T>, Exec> const& d_logits) {
  detail::for_each(exec, "kokomo::draw_log_probability_gradient", a.tokens,
                   detail::DrawLogProbabilityGradient<T, Exec>{routing, a, factor, d_logits});
}

} // namespace kokomo::inline v0

#endif
