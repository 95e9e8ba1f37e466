// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_CACHE_TOKEN_SCHEDULER_HPP
#define KOKOMO_CACHE_TOKEN_SCHEDULER_HPP

#include <kokomo/error.hpp>
#include <kokomo/stats/choices.hpp>

#include <algorithm>
#include <vector>

namespace kokomo::inline v0 {
namespace cache {

/// The experts of a token in all layers: ids layer * experts + expert, ascending, each once.
using Path = std::vector<index_t>;

/// Paths of the tokens of a batch, from what each layer chose.
/// \throws kokomo::Error 201 for layers of different tokens
inline std::vector<Path> paths_of(std::vector<stats::Choices> const& layers) {
  std::vector<Path> paths(layers.empty() ? 0 : layers[0].of_token.size());
  index_t first = 0;
  for (auto const& choices : layers) {
    detail::require(choices.of_token.size() == paths.size(), 201, "a layer has ", choices.of_token.size(),
                    " tokens, expected ", paths.size());
    for (std::size_t t = 0; t < paths.size(); ++t)
      for (auto const& entry : choices.of_token[t]) paths[t].push_back(first + entry.expert);
    first += choices.experts;
  }
  for (Path& path : paths) {
    std::sort(path.begin(), path.end());
    path.erase(std::unique(path.begin(), path.end()), path.end());
  }
  return paths;
}

/// Two batches made of one. Where they are of one size, the first token is in the first.
struct Halves {
  std::vector<offset_t> first, second; ///< tokens, ascending

  /// Tokens in the order in which they run: `first`, then `second`. Where token order[i] was, there belongs output i.
  std::vector<offset_t> order() const {
    std::vector<offset_t> all = first;
    all.insert(all.end(), second.begin(), second.end());
    return all;
  }
};

} // namespace cache

namespace detail {

/// Tokens in two parts, and how many tokens of each part have an expert.
struct SplitPaths {
  std::vector<cache::Path> const& paths;
  std::vector<int> part;                // [tokens] 0, 1; -1: not yet
  std::vector<std::vector<int>> tokens; // [2][ids]

  SplitPaths(std::vector<cache::Path> const& all) : paths(all), part(all.size(), -1), tokens(2) {
    index_t ids = 0;
    for (cache::Path const& path : all) ids = path.empty() ? ids : std::max(ids, path.back() + 1);
    for (auto& counts : tokens) counts.assign(std::size_t(ids), 0);
  }
  void put(std::size_t token, int where) {
    part[token] = where;
    for (index_t const id : paths[token]) ++tokens[std::size_t(where)][std::size_t(id)];
  }
  void take(std::size_t token) {
    for (index_t const id : paths[token]) --tokens[std::size_t(part[token])][std::size_t(id)];
    part[token] = -1;
  }
  /// Experts that a part would have more with this token.
  offset_t increase(std::size_t token, int where) const {
    return std::count_if(paths[token].begin(), paths[token].end(),
                         [&](index_t id) { return tokens[std::size_t(where)][std::size_t(id)] == 0; });
  }
  /// Experts of both parts, each counted where it is needed: what is to be loaded for the two batches.
  offset_t cost() const {
    offset_t sum = 0;
    for (auto const& counts : tokens) sum += offset_t(counts.size()) - std::count(counts.begin(), counts.end(), 0);
    return sum;
  }
  /// Exchanges two tokens for as long as that lowers the cost.
  void improve() {
    for (bool changed = true; changed;) {
      changed = false;
      for (std::size_t a = 0; a < part.size(); ++a)
        for (std::size_t b = a + 1; b < part.size(); ++b) {
          if (part[a] == part[b]) continue;
          int const of_a = part[a], of_b = part[b];
          take(a), take(b);
          offset_t const as_it_was = increase(a, of_a) + increase(b, of_b);
          bool const better = increase(a, of_b) + increase(b, of_a) < as_it_was;
          put(a, better ? of_b : of_a), put(b, better ? of_a : of_b);
          changed = changed || better;
        }
    }
  }
  cache::Halves halves() const {
    cache::Halves result;
    for (std::size_t t = 0; t < part.size(); ++t) (part[t] == 0 ? result.first : result.second).push_back(offset_t(t));
    if (part.size() % 2 == 0 && !part.empty() && part[0] == 1) std::swap(result.first, result.second);
    return result;
  }
};

/// Experts that one path has and the other has not.
inline offset_t path_distance(cache::Path const& a, cache::Path const& b) {
  offset_t common = 0;
  for (auto i = a.begin(), j = b.begin(); i != a.end() && j != b.end();)
    if (*i == *j)
      ++common, ++i, ++j;
    else
      *i < *j ? ++i : ++j;
  return offset_t(a.size() + b.size()) - 2 * common;
}

} // namespace detail

namespace cache {

/// Experts that two batches need, each counted in every batch that needs it: sum over experts of R1 + R2.
inline offset_t experts_needed(std::vector<Path> const& paths, Halves const& halves) {
  detail::SplitPaths split(paths);
  for (offset_t const t : halves.first) split.put(std::size_t(t), 0);
  for (offset_t const t : halves.second) split.put(std::size_t(t), 1);
  return split.cost();
}

/// Splits the tokens of a doubled batch into two halves that need few experts each, so that fewer have to be loaded.
///
/// Seeds are the two tokens with the most different paths; then each half in turn takes the token that adds the fewest
/// experts to it; then two tokens are exchanged for as long as that lowers the cost. The given order, first half and second
/// half, is improved likewise, and the better of both is taken: never worse than not regrouping. O(T^2 (K L + passes)).
/// Halves of an odd batch differ by one token. Ties go to the earlier token.
/// Source: ExpertFlow's token scheduler. The authors cluster by K-means; this algorithm is reconstructed
/// (docs/policies/cache/token_scheduler.md).
inline Halves schedule_tokens(std::vector<Path> const& paths) {
  std::size_t const n = paths.size(), half = (n + 1) / 2;
  detail::SplitPaths given(paths), grown(paths);
  for (std::size_t t = 0; t < n; ++t) given.put(t, t < half ? 0 : 1);
  given.improve();
  if (n < 2) return given.halves();
  std::size_t seeds[2] = {0, 1};
  offset_t farthest = -1;
  for (std::size_t a = 0; a < n; ++a)
    for (std::size_t b = a + 1; b < n; ++b)
      if (offset_t const d = detail::path_distance(paths[a], paths[b]); d > farthest)
        farthest = d, seeds[0] = a, seeds[1] = b;
  grown.put(seeds[0], 0), grown.put(seeds[1], 1);
  for (std::size_t placed = 2; placed < n; ++placed) {
    int const where = int(placed % 2);
    std::size_t best = n;
    offset_t least = 0;
    for (std::size_t t = 0; t < n; ++t) {
      if (grown.part[t] != -1) continue;
      offset_t const more = grown.increase(t, where);
      if (best == n || more < least) best = t, least = more;
    }
    grown.put(best, where);
  }
  grown.improve();
  return grown.cost() < given.cost() ? grown.halves() : given.halves();
}

} // namespace cache
} // namespace kokomo::inline v0

#endif
