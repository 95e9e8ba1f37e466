// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BENCH_SUPPORT_LOADS_HPP
#define KOKOMO_BENCH_SUPPORT_LOADS_HPP

#include <support/shapes.hpp>

#include <string>
#include <vector>

namespace bench {

/// How tokens spread over experts:
///
///     random    as a router with random weights chooses
///     balanced  every expert gets as many tokens as any other
///     hot       one expert gets half of all tokens, the rest is random
///     zipf      the i-th expert is drawn with probability ~ 1 / i
inline std::vector<std::string> const& load_names() {
  static std::vector<std::string> const names{"random", "balanced", "hot", "zipf"};
  return names;
}

/// Batches that a benchmark takes in turn. While a batch reaches at most half of the experts there are as many as have no
/// expert in common: the weights of one call are read again after those of all the others only, so they come from memory
/// and not from a cache that the experts of one routing might fit into. Otherwise, and for uneven loads, one.
int routings(std::string const& load, Dimensions const& shape, long tokens);

/// The experts that routing number `routing` should choose, [tokens, k]; empty: whatever the router does.
std::vector<int> wanted_experts(std::string const& load, Dimensions const& shape, long tokens, int routing);

} // namespace bench

#endif
