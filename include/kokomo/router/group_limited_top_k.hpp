// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_GROUP_LIMITED_TOP_K_HPP
#define KOKOMO_ROUTER_GROUP_LIMITED_TOP_K_HPP

#include <kokomo/router/top_k.hpp>

namespace kokomo::inline v0 {

enum class GroupScore {
  max,     ///< the best rank in the group (DeepSeek-V2)
  top2_sum ///< the sum of its two best (DeepSeek-V3)
};

/// How experts outside the chosen groups rank.
enum class OutsideRank {
  minus_infinity, ///< never chosen (DeepSeek's own code, transformers 5)
  zero            ///< 0.0: with negative ranks inside, an expert outside can still win (transformers 4, AXK2)
};

namespace detail {

template <class Score, class T, class Exec> struct SelectGroupLimited {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  Matrix<C, Exec> ranks; // [tokens, experts + groups]
  int k, groups, allowed_groups;
  GroupScore group_score;
  OutsideRank outside;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    offset_t const first = token * k;
    a.token_offsets[token] = first;
    if (token == a.tokens) return;
    if (routing.masked(token)) {
      for (int j = 0; j < k; ++j) a.choose(first + j, none);
      return;
    }
    index_t const experts = routing.sizes.experts;
    C* const row = &ranks(token, 0);
    C* const of_group = row + experts;
    write_ranks<Score, C>(routing, token, row);

    index_t const width = experts / groups;
    for (int g = 0; g < groups; ++g) {
      auto const best = next_best(row + g * width, width, ahead_of_all<C>());
      of_group[g] = best.value;
      if (group_score == GroupScore::top2_sum && width > 1)
        of_group[g] += next_best(row + g * width, width, best).value;
      of_group[g] = rankable(of_group[g]);
    }
    auto last_allowed = ahead_of_all<C>();
    for (int j = 0; j < allowed_groups; ++j) last_allowed = next_best(of_group, groups, last_allowed);
    C const outside_rank = outside == OutsideRank::zero ? C(0) : -Kokkos::Experimental::infinity_v<C>;
    for (int g = 0; g < groups; ++g)
      if (last_allowed.before({of_group[g], g}))
        for (index_t e = g * width; e < (g + 1) * width; ++e) row[e] = outside_rank;

    for_each_best(row, experts, k, [&](int j, index_t expert) { a.choose(first + j, expert); });
  }
};

} // namespace detail

/// Top-k among the experts of the best groups only. Groups are contiguous runs of experts / groups experts.
///
/// Ranks what `Rank` says plus the balancer's bias, scores each group by its max or by the sum of its two best, keeps
/// the best `allowed_groups` (ties: the smaller index) and takes the k best experts of those.
/// Source: deepseek-ai/DeepSeek-V3 inference/model.py; variants as transformers has them.
/// \throws kokomo::Error 102 unless 1 <= k <= experts; 103 for groups that do not divide the experts, for
/// allowed_groups
///         outside 1 .. groups, or where k experts do not fit into the allowed groups
template <class Rank = RankByScore> struct GroupLimitedTopK {
  int k = 8;              ///< experts a token
  int groups = 8;         ///< divides the experts
  int allowed_groups = 4; ///< 1 .. groups
  GroupScore group_score = GroupScore::top2_sum;
  OutsideRank outside = OutsideRank::minus_infinity;

  template <class T, class Exec> using Scratch = detail::RankScratch<T, Exec>;

  offset_t entries_per_token(Sizes const&) const { return k; }
  bool leaves_out_at_zero() const { return outside == OutsideRank::zero; }
  offset_t extra_ranks() const { return groups; }
  void check(Sizes const& sizes) const {
    detail::check_k(k, sizes);
    detail::require(groups >= 1 && sizes.experts % groups == 0, 103, "groups = ", groups,
                    ", expected a divisor of the ", sizes.experts, " experts");
    detail::require(allowed_groups >= 1 && allowed_groups <= groups, 103, "allowed_groups = ", allowed_groups,
                    ", expected 1 <= allowed_groups <= groups = ", groups);
    detail::require(k <= allowed_groups * (sizes.experts / groups), 103, "k = ", k, " experts do not fit into ",
                    allowed_groups, " groups of ", sizes.experts / groups, " experts");
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    using Score = typename Rank::template Score<GateScore>;
    detail::for_each(exec, "kokomo::GroupLimitedTopK::select", a.tokens + 1,
                     detail::SelectGroupLimited<Score, T, Exec>{routing, a, scratch.ranks, k, groups, allowed_groups,
                                                                group_score, outside});
  }
};

} // namespace kokomo::inline v0

#endif
