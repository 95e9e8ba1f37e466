// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_TOP_2_HPP
#define KOKOMO_ROUTER_TOP_2_HPP

#include <kokomo/detail/random.hpp>
#include <kokomo/router/top_k.hpp>

namespace kokomo::inline v0 {

/// Which second expert a token takes, and whether.
enum class SecondExpert {
  all,       ///< the best of the rest
  sampling,  ///< the best of the rest after Gumbel noise on the logits: a sample from their softmax
  threshold, ///< the best of the rest, kept if w2 > threshold
  random     ///< the best of the rest, kept with probability min(1, w2 / threshold)
};

namespace detail {

template <class T, class Exec> struct SelectTop2 {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  Matrix<C, Exec> ranks;
  SecondExpert policy;
  bool normalized;
  C threshold;
  std::uint64_t seed;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    offset_t const first = token * 2;
    a.token_offsets[token] = first;
    if (token == a.tokens) return;
    if (routing.masked(token)) {
      a.choose(first, none);
      a.choose(first + 1, none);
      return;
    }
    index_t const n = routing.sizes.experts;
    C* const row = &ranks(token, 0);
    write_ranks<IdentityScore, C>(routing, token, row);
    auto const best = next_best(row, n, ahead_of_all<C>());
    a.choose(first, best.index);

    if (policy == SecondExpert::sampling) {
      for (index_t e = 0; e < n; ++e) row[e] += static_cast<C>(gumbel(seed, routing.step, token, e));
      row[best.index] = -Kokkos::Experimental::infinity_v<C>;
    }
    auto second = next_best(row, n, policy == SecondExpert::sampling ? ahead_of_all<C>() : best);
    if (second.index == best.index) second = next_best(row, n, second); // every other logit is -infinity
    if (policy == SecondExpert::random || policy == SecondExpert::threshold) {
      auto const softmax = SoftmaxScore::row(routing.row(token), n);
      C const p1 = SoftmaxScore::value(softmax, routing.row(token)[best.index]);
      C const p2 = SoftmaxScore::value(softmax, routing.row(token)[second.index]);
      C const weight = normalized ? p2 / (p1 + p2) : p2;
      C const share = policy == SecondExpert::random ? static_cast<C>(uniform(seed, routing.step, token, n)) : C(1);
      if (!(weight > threshold * share)) second.index = none;
    }
    a.choose(first + 1, second.index);
  }
};

} // namespace detail

/// The best expert by logit, and a second one by a policy of its own. Ties go to the smaller expert index.
///
/// Random policies draw from (seed, step, token) alone, in training and inference alike, as the published code does.
/// Source: GShard as NLLB-MoE has it, transformers nllb_moe `second_expert_policy`; tensorflow/mesh for thresholds.
/// \throws kokomo::Error 102 for fewer than two experts, 106 for a threshold that is not positive
struct Top2 {
  SecondExpert second = SecondExpert::all;
  bool normalized_threshold = false; ///< w2 = p2 / (p1 + p2) instead of p2
  float threshold = 0.5f;            ///< > 0, of `threshold` and `random`
  std::uint64_t seed = 0;

  template <class T, class Exec> using Scratch = detail::RankScratch<T, Exec>;

  offset_t entries_per_token(Sizes const&) const { return 2; }
  void check(Sizes const& sizes) const {
    detail::check_k(2, sizes);
    detail::require(threshold > 0, 106, "Top2 threshold = ", threshold, ", expected > 0");
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    detail::for_each(exec, "kokomo::Top2::select", a.tokens + 1,
                     detail::SelectTop2<T, Exec>{routing, a, scratch.ranks, second, normalized_threshold,
                                                 compute_t<T>(threshold), seed});
  }
};

} // namespace kokomo::inline v0

#endif
