// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <kokomo/cache/token_scheduler.hpp>

#include <support/catch.hpp>

#include <algorithm>
#include <random>
#include <set>

namespace token_scheduler_test {

using namespace kokomo;
using namespace kokomo::cache;

/// Paths of `layers` layers with k of the experts first .. first + count - 1 of `experts`.
Path random_path(std::mt19937& engine, int layers, index_t experts, int k, index_t first, index_t count) {
  std::set<index_t> path;
  std::uniform_int_distribution<index_t> draw(first, first + count - 1);
  for (int l = 0; l < layers; ++l)
    for (std::size_t const until = path.size() + std::size_t(k); path.size() < until;)
      path.insert(l * experts + draw(engine));
  return {path.begin(), path.end()};
}

/// By its definition: experts of each half, as sets.
offset_t needed(std::vector<Path> const& paths, Halves const& halves) {
  offset_t sum = 0;
  for (auto const* half : {&halves.first, &halves.second}) {
    std::set<index_t> ids;
    for (offset_t const t : *half) ids.insert(paths[std::size_t(t)].begin(), paths[std::size_t(t)].end());
    sum += offset_t(ids.size());
  }
  return sum;
}

Halves as_given(std::size_t n) {
  Halves halves;
  for (std::size_t t = 0; t < n; ++t) (t < (n + 1) / 2 ? halves.first : halves.second).push_back(offset_t(t));
  return halves;
}

TEST_CASE("Two halves never need more experts than the order that was given, and are of one size") {
  std::mt19937 engine(1);
  for (std::size_t n = 0; n <= 40; n += n < 4 ? 1 : 9)
    for (int trial = 0; trial < 8; ++trial) {
      std::vector<Path> paths;
      for (std::size_t t = 0; t < n; ++t) paths.push_back(random_path(engine, 3, 16, 2, 0, 16));
      auto const halves = schedule_tokens(paths);
      REQUIRE(halves.first.size() == (n + 1) / 2);
      auto order = halves.order();
      REQUIRE(order.size() == n);
      std::sort(order.begin(), order.end());
      for (std::size_t t = 0; t < n; ++t) REQUIRE(order[t] == offset_t(t));
      REQUIRE(needed(paths, halves) <= needed(paths, as_given(n)));
      REQUIRE(experts_needed(paths, halves) == needed(paths, halves));
    }
}

TEST_CASE("Two interleaved batches with disjoint paths come apart, and then need half") {
  std::mt19937 engine(2);
  for (int trial = 0; trial < 20; ++trial) {
    std::vector<Path> paths;
    for (int t = 0; t < 64; ++t) paths.push_back(random_path(engine, 4, 8, 2, t % 2 == 0 ? 0 : 4, 4));
    auto const halves = schedule_tokens(paths);
    for (auto const* half : {&halves.first, &halves.second})
      for (offset_t const t : *half) REQUIRE(t % 2 == half->front() % 2);
    REQUIRE(needed(paths, as_given(64)) == 2 * needed(paths, halves)); // all experts occur among 16 tokens
  }
}

TEST_CASE("Few tokens: no split of equal size needs fewer experts by an exchange") {
  std::mt19937 engine(3);
  for (int trial = 0; trial < 20; ++trial) {
    std::vector<Path> paths;
    for (int t = 0; t < 8; ++t) paths.push_back(random_path(engine, 2, 6, 1, 0, 6));
    auto const halves = schedule_tokens(paths);
    for (std::size_t a = 0; a < 4; ++a)
      for (std::size_t b = 0; b < 4; ++b) {
        Halves other = halves;
        std::swap(other.first[a], other.second[b]);
        REQUIRE(needed(paths, other) >= needed(paths, halves));
      }
  }
}

TEST_CASE("Paths are the experts of all layers, each once") {
  stats::Choices a, b;
  a.experts = 3, b.experts = 4;
  a.of_token = {{{2, 0.5}, {0, 0.5}}, {}};
  b.of_token = {{{3, 1}, {3, 1}}, {{0, 1}}};
  REQUIRE(paths_of({a, b}) == std::vector<Path>{{0, 2, 6}, {3}});
  REQUIRE(paths_of({}).empty());
  b.of_token.pop_back();
  REQUIRE_THROWS_AS(paths_of({a, b}), Error);
}

} // namespace token_scheduler_test
