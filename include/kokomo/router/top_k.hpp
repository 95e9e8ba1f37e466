// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_TOP_K_HPP
#define KOKOMO_ROUTER_TOP_K_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/ranking.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {

/// What a selector compares: the score function of the layer's gate, or the logits themselves. A SelectionBias is added
/// to either.
struct RankByScore {
  template <class GateScore> using Score = GateScore;
};
struct RankByLogits {
  template <class GateScore> using Score = IdentityScore;
};

namespace detail {

/// What selection compares, [tokens, experts + extra].
template <class T, class Exec> struct RankScratch {
  Matrix<compute_t<T>, Exec> ranks;

  template <class Selector> RankScratch(Arena& arena, Selector const& selector, Sizes const& sizes) {
    offset_t columns = sizes.experts;
    if constexpr (requires { selector.extra_ranks(); }) columns += selector.extra_ranks();
    ranks = arena.matrix<compute_t<T>, Exec>(sizes.tokens, columns);
  }
};

template <class Score, class Rounding, int K, class T, class Exec> struct SelectTopK {
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  Matrix<compute_t<T>, Exec> ranks;
  int k_setting;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    int const k = K == dynamic ? k_setting : K;
    offset_t const first = token * k;
    a.token_offsets[token] = first;
    if (token == a.tokens) return;
    if (routing.masked(token)) {
      for (int j = 0; j < k; ++j) a.choose(first + j, none);
      return;
    }
    auto* const row = &ranks(token, 0);
    write_ranks<Score, Rounding>(routing, token, row);
    for_each_best(row, routing.sizes.experts, k,
                  [&](int j, index_t expert) { a.choose(first + j, routing.selectable(expert) ? expert : none); });
  }
};

inline void check_k(int k, Sizes const& sizes) {
  require(k >= 1 && k <= sizes.experts, 102, "k = ", k, " experts a token, expected 1 <= k <= ", sizes.experts,
          " (the routed experts)");
}

} // namespace detail

/// The k best experts of each token, best first; ties go to the smaller expert index.
///
/// Ranks what `Rank` says plus the balancer's selection bias. `TopK<8>` fixes k while compiling, `TopK<>{.k = 8}`
/// leaves it to run time. Masked tokens (Inputs::token_mask 0) are routed nowhere.
/// \throws kokomo::Error 102 unless 1 <= k <= experts
template <int K = dynamic, class Rank = RankByScore> struct TopK {
  int k = K == dynamic ? 2 : K; ///< experts a token, 1 .. experts
  bool round_scores = false;    ///< compare scores rounded to the storage type, as code that routes in it does

  template <class T, class Exec> using Scratch = detail::RankScratch<T, Exec>;

  int picks() const { return K == dynamic ? k : K; }
  offset_t entries_per_token(Sizes const&) const { return picks(); }
  void check(Sizes const& sizes) const { detail::check_k(picks(), sizes); }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    using Score = typename Rank::template Score<GateScore>;
    if (round_scores)
      detail::for_each(exec, "kokomo::TopK::select", a.tokens + 1,
                       detail::SelectTopK<Score, T, K, T, Exec>{routing, a, scratch.ranks, k});
    else
      detail::for_each(exec, "kokomo::TopK::select", a.tokens + 1,
                       detail::SelectTopK<Score, compute_t<T>, K, T, Exec>{routing, a, scratch.ranks, k});
  }
};

} // namespace kokomo::inline v0

#endif
