// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_COMPRESS_GROUP_EXPERTS_HPP
#define KOKOMO_COMPRESS_GROUP_EXPERTS_HPP

#include <kokomo/error.hpp>
#include <kokomo/types.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace kokomo::inline v0 {

namespace detail {

/// Experts by falling usage, equal ones by index.
inline std::vector<index_t> by_usage(std::vector<double> const& alpha) {
  std::vector<index_t> order(alpha.size());
  std::iota(order.begin(), order.end(), index_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](index_t a, index_t b) { return alpha[std::size_t(a)] > alpha[std::size_t(b)]; });
  return order;
}

} // namespace detail

/// Which experts of a trained model are merged, and into what: MC-SMoE's first steps, on the host.
/// Source: UNITES-Lab/MC-SMoE, merging/grouping.py (docs/policies/compress/group_experts.md).
namespace compress {

/// How often each expert was picked, as a share of all picks: alpha_e = picks_e / picks. All zero without any.
inline std::vector<double> usage(std::vector<offset_t> const& picks) {
  double const total = double(std::accumulate(picks.begin(), picks.end(), offset_t(0)));
  std::vector<double> alpha;
  for (offset_t const count : picks) alpha.push_back(total > 0 ? double(count) / total : 0);
  return alpha;
}

/// The same over many batches, without keeping their counts: alpha <- beta alpha + (1 - beta) share, rescaled to sum 1; the
/// first batch counts in full, batches without picks not at all.
struct UsageTracker {
  double beta = 0.9; ///< 0 to 1
  std::vector<double> alpha{};

  /// \throws kokomo::Error 201 for another number of experts than before
  void update(std::vector<offset_t> const& picks) {
    detail::require(alpha.empty() || alpha.size() == picks.size(), 201, "picks of ", picks.size(),
                    " experts, expected ", alpha.size());
    auto share = usage(picks);
    double sum = 0;
    if (std::all_of(share.begin(), share.end(), [](double value) { return value == 0; })) return;
    for (std::size_t e = 0; e < share.size(); ++e) {
      if (!alpha.empty()) share[e] = beta * alpha[e] + (1 - beta) * share[e];
      sum += share[e];
    }
    for (double& value : share) value /= sum;
    alpha = std::move(share);
  }
};

/// How many groups each layer keeps, so that they are `total` over all layers: the most used experts of all layers
/// together, of which each layer's most used one counts as alpha = 1, and so do all of a layer that is not to be merged.
///
/// The source takes those above the value at rank `total`, which are fewer where values are equal; here equal ones go by
/// layer, then by expert, so that there are always `total`.
/// \param[in] alpha [layers][experts] usage
/// \param[in] merged [layers] false: the layer keeps its experts; empty: all are merged
/// \throws kokomo::Error 201 for another number of layers, 106 for a total that leaves a layer without a group, or with more
///         groups than experts
inline std::vector<index_t> groups_of_layers(std::vector<std::vector<double>> const& alpha, offset_t total,
                                             std::vector<bool> const& merged = {}) {
  detail::require(merged.empty() || merged.size() == alpha.size(), 201, "merged has ", merged.size(),
                  " layers, expected ", alpha.size());
  struct Candidate {
    bool certain;
    double alpha;
    std::size_t layer;
  };
  std::vector<Candidate> candidates;
  offset_t certain = 0;
  for (std::size_t l = 0; l < alpha.size(); ++l) {
    bool const kept = !merged.empty() && !merged[l];
    auto const order = detail::by_usage(alpha[l]);
    for (std::size_t i = 0; i < order.size(); ++i) {
      bool const first = i == 0;
      candidates.push_back({kept || first, alpha[l][std::size_t(order[i])], l});
      certain += kept || first ? 1 : 0;
    }
  }
  detail::require(total >= certain && total <= offset_t(candidates.size()), 106, "groups of all layers = ", total,
                  ", expected ", certain, " (one a merged layer, all of the others) to ", candidates.size());
  std::stable_sort(candidates.begin(), candidates.end(), [](Candidate const& a, Candidate const& b) {
    return a.certain != b.certain ? a.certain : a.certain ? false : a.alpha > b.alpha;
  });
  std::vector<index_t> groups(alpha.size(), 0);
  for (offset_t i = 0; i < total; ++i) ++groups[candidates[std::size_t(i)].layer];
  return groups;
}

/// How alike the router treats two experts: the cosine of their logits over some tokens, mapped to [0, 1] by (c + 1) / 2.
/// A symmetric matrix [experts][experts].
/// \param[in] logits [tokens, experts] row-major, of the tokens that the model is calibrated on
/// \throws kokomo::Error 201 unless their number is a multiple of the experts
inline std::vector<std::vector<double>> logit_similarity(std::vector<double> const& logits, index_t experts) {
  auto const n = std::size_t(experts);
  detail::require(experts >= 1 && logits.size() % n == 0, 201, "logits has ", logits.size(),
                  " values, expected a multiple of ", experts, " experts");
  std::vector<std::vector<double>> dots(n, std::vector<double>(n, 0.0));
  for (std::size_t row = 0; row < logits.size(); row += n)
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j <= i; ++j) dots[i][j] += logits[row + i] * logits[row + j];
  auto similarity = dots;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      double const lengths = std::sqrt(dots[i][i]) * std::sqrt(dots[j][j]);
      similarity[i][j] = similarity[j][i] = (dots[i][j] / std::max(lengths, 1e-7) + 1) / 2;
    }
  return similarity;
}

/// Groups of experts that become one each.
struct Groups {
  std::vector<index_t> group_of_expert; ///< [experts] 0 .. groups - 1: what `ExpertMap::set` takes
  std::vector<index_t> dominant;        ///< [groups] the most used expert of each, most used group first
};

/// The `groups` most used experts are the dominant ones of a group each; every other one, in order of falling usage, joins
/// the dominant one that it is most alike among those whose group is not full.
///
/// The source's own loops differ from this where they slip: one of them labels experts by index instead of by usage, the
/// decoder's does not count its members. Ties go to the more used dominant expert.
/// \param[in] alpha [experts] usage
/// \param[in] similarity [experts][experts], as of `logit_similarity`
/// \param[in] capacity most experts a group; 0: any number
/// \throws kokomo::Error 106 unless 1 <= groups <= experts and groups capacity >= experts, 201 for a similarity of other
///         experts
inline Groups group_experts(std::vector<double> const& alpha, std::vector<std::vector<double>> const& similarity,
                            index_t groups, index_t capacity = 0) {
  auto const experts = index_t(alpha.size());
  detail::require(groups >= 1 && groups <= experts, 106, "groups = ", groups, ", expected 1 to ", experts,
                  " (the experts)");
  detail::require(capacity == 0 || offset_t(groups) * capacity >= experts, 106, "capacity = ", capacity, " for ",
                  groups, " groups, expected room for ", experts, " experts, or 0");
  detail::require(similarity.size() == alpha.size(), 201, "similarity has ", similarity.size(), " experts, expected ",
                  experts);
  auto const order = detail::by_usage(alpha);
  Groups result{std::vector<index_t>(alpha.size(), none), {order.begin(), order.begin() + groups}};
  std::vector<index_t> members(std::size_t(groups), 1);
  for (index_t g = 0; g < groups; ++g) result.group_of_expert[std::size_t(result.dominant[std::size_t(g)])] = g;
  for (auto i = std::size_t(groups); i < order.size(); ++i) {
    auto const e = std::size_t(order[i]);
    auto const alike = [&](index_t g) { return similarity[e][std::size_t(result.dominant[std::size_t(g)])]; };
    index_t best = none;
    for (index_t g = 0; g < groups; ++g) {
      if (capacity > 0 && members[std::size_t(g)] >= capacity) continue;
      if (best == none || alike(g) > alike(best)) best = g;
    }
    result.group_of_expert[e] = best;
    ++members[std::size_t(best)];
  }
  return result;
}

} // namespace compress
} // namespace kokomo::inline v0

#endif
