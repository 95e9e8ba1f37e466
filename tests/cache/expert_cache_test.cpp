// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <kokomo/cache/expert_cache.hpp>

#include <support/catch.hpp>

#include <map>
#include <random>

namespace expert_cache_test {

using namespace kokomo;
using namespace kokomo::cache;

using Demands = std::vector<std::vector<index_t>>; // [layers] experts of one pass

/// What a cache must hold, kept beside it from its loads alone.
struct Replay {
  ExpertCache cache;
  std::map<index_t, std::pair<index_t, index_t>> slots; // slot -> (layer, expert)

  Replay(index_t layers, index_t experts, index_t count, CacheSettings const& settings = {})
      : cache(layers, experts, count, settings) {}

  void apply(std::vector<Load> const& loads) {
    for (Load const& l : loads) {
      REQUIRE(l.slot >= 0);
      REQUIRE(l.slot < cache.slots());
      slots[l.slot] = {l.layer, l.expert};
    }
  }
  void pass(Demands const& demands, ExpertCache::Prediction const& prediction) {
    apply(cache.begin(prediction));
    for (index_t l = 0; l < cache.layers(); ++l) {
      apply(cache.demand(l, demands[std::size_t(l)]));
      for (index_t const e : demands[std::size_t(l)]) { // all of them are where the table says
        index_t const slot = cache.slots_of(l)[std::size_t(e)];
        REQUIRE(slot != none);
        REQUIRE(slots[slot] == std::pair(l, e));
      }
      apply(cache.end(l));
      check();
    }
  }
  /// The table knows what was loaded last into each slot, and nothing else.
  void check() const {
    std::size_t known = 0;
    for (index_t l = 0; l < cache.layers(); ++l)
      for (index_t e = 0; e < cache.experts(); ++e) {
        index_t const slot = cache.slots_of(l)[std::size_t(e)];
        if (slot == none) continue;
        ++known;
        REQUIRE(slots.at(slot) == std::pair(l, e));
      }
    REQUIRE(known == slots.size());
  }
};

/// Passes whose layers ask for different numbers of experts.
std::vector<Demands> trace(std::vector<int> const& per_layer, index_t experts, int passes, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<Demands> all;
  for (int p = 0; p < passes; ++p) {
    Demands demands;
    for (int const count : per_layer) {
      std::vector<index_t> ids(static_cast<std::size_t>(experts));
      for (index_t e = 0; e < experts; ++e) ids[std::size_t(e)] = e;
      std::shuffle(ids.begin(), ids.end(), engine);
      ids.resize(std::size_t(count));
      demands.push_back(ids);
    }
    all.push_back(demands);
  }
  return all;
}

/// Right about a share of the experts.
ExpertCache::Prediction predict(Demands const& demands, index_t experts, double right, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> draw;
  ExpertCache::Prediction p(demands.size(), std::vector<double>(std::size_t(experts), 0.0));
  for (std::size_t l = 0; l < demands.size(); ++l) {
    for (index_t const e : demands[l]) p[l][std::size_t(e)] = 1;
    for (double& value : p[l]) {
      bool const is_right = draw(engine) < right;
      value = (value > 0) == is_right ? 0.6 + 0.4 * draw(engine) : 0.4 * draw(engine);
    }
  }
  return p;
}

TEST_CASE("A perfect prediction leaves nothing to ask for, if the largest layer fits") {
  for (auto const& per_layer : {std::vector<int>{4, 4, 4, 4}, {1, 4, 4, 2}, {4, 1, 1, 4}, {2, 3, 4, 1}, {1, 1, 4, 4}})
    for (index_t const slots : {4, 5, 7, 16, 40}) {
      Replay replay(4, 9, slots);
      for (auto const& demands : trace(per_layer, 9, 6, 1)) replay.pass(demands, predict(demands, 9, 1, 2));
      REQUIRE(replay.cache.counts().misses == 0);
      REQUIRE(replay.cache.counts().hits == 6 * (per_layer[0] + per_layer[1] + per_layer[2] + per_layer[3]));
    }
}

TEST_CASE("Predicted places hit no less often than the least recently used ones, where layers differ in demand") {
  for (unsigned seed = 0; seed < 5; ++seed)
    for (double const right : {1.0, 0.95, 0.9}) {
      auto const passes = trace({1, 6, 2, 1, 5, 1}, 16, 40, seed);
      Replay predicted(6, 16, 10), recent(6, 16, 10, {.strategy = Strategy::least_recent});
      for (std::size_t p = 0; p < passes.size(); ++p) {
        predicted.pass(passes[p], predict(passes[p], 16, right, unsigned(p)));
        recent.pass(passes[p], {});
      }
      REQUIRE(predicted.cache.counts().hits >= recent.cache.counts().hits);
      REQUIRE(predicted.cache.counts().hits + predicted.cache.counts().misses == 40 * 16);
      REQUIRE(recent.cache.counts().prefetches == 0);
    }
}

TEST_CASE("Whatever is predicted, what a layer asks for is there") {
  for (double const right : {0.0, 0.3, 0.7})
    for (index_t const slots : {6, 8, 20}) {
      Replay replay(5, 12, slots, {.threshold = 0.3});
      for (auto const& demands : trace({3, 6, 1, 0, 4}, 12, 20, 3))
        replay.pass(demands, predict(demands, 12, right, 4));
      auto const& counts = replay.cache.counts();
      REQUIRE(counts.hits + counts.misses == 20 * 14);
      REQUIRE(counts.unused <= counts.prefetches);
    }
}

TEST_CASE("The next layer gets all of its demand, the others shares of the rest by largest remainder") {
  // 10 slots: 3 for layer 0, 7 left for demands 2, 5, 6: 1.08, 2.69, 3.23, and the one that is left to the largest remainder.
  ExpertCache cache(4, 8, 10);
  ExpertCache::Prediction p(4, std::vector<double>(8, 0.0));
  int const demand[] = {3, 2, 5, 6};
  for (int l = 0; l < 4; ++l)
    for (int e = 0; e < demand[l]; ++e) p[std::size_t(l)][std::size_t(e)] = 0.6 + 0.01 * e;
  auto const loads = cache.begin(p);
  std::vector<std::pair<index_t, index_t>> order;
  for (Load const& l : loads) order.emplace_back(l.layer, l.expert);
  REQUIRE(order == std::vector<std::pair<index_t, index_t>>{
                       {0, 2}, {0, 1}, {0, 0}, {1, 1}, {2, 4}, {2, 3}, {2, 2}, {3, 5}, {3, 4}, {3, 3}});
  // Layer 0 needs 5 as well, over the least probable expert of the farthest layer, and not 1, which goes to the next layers.
  auto const missed = cache.demand(0, {0, 2, 5});
  REQUIRE(missed.size() == 1);
  REQUIRE(missed[0].expert == 5);
  REQUIRE(missed[0].slot == loads[1].slot); // that of expert 1, which is not needed after all
  auto const later = cache.end(0);          // three slots: one for layer 1, two for layer 2
  order.clear();
  for (Load const& l : later) order.emplace_back(l.layer, l.expert);
  REQUIRE(order == std::vector<std::pair<index_t, index_t>>{{1, 0}, {2, 1}, {2, 0}});
  REQUIRE(cache.counts().unused == 1);
}

TEST_CASE("A miss takes the least probable expert of the farthest layer") {
  ExpertCache cache(3, 4, 4);
  ExpertCache::Prediction const p{{0.9, 0, 0, 0}, {0, 0.9, 0, 0}, {0.7, 0.8, 0, 0}};
  auto const loads = cache.begin(p);
  REQUIRE(loads.size() == 4);
  auto const missed = cache.demand(0, {0, 3});
  REQUIRE(missed.size() == 1);
  REQUIRE(missed[0].slot == loads[3].slot);
  REQUIRE(cache.slots_of(2) == std::vector<index_t>{none, loads[2].slot, none, none});
}

TEST_CASE("Least recently used: the longest unused leaves") {
  ExpertCache cache(1, 4, 2, {.strategy = Strategy::least_recent});
  REQUIRE(cache.begin({}).empty());
  auto const ask = [&](index_t e) {
    auto const loads = cache.demand(0, {e});
    REQUIRE(cache.end(0).empty());
    return loads.empty() ? none : loads[0].slot;
  };
  REQUIRE(ask(0) == 0);
  REQUIRE(ask(1) == 1);
  REQUIRE(ask(0) == none);
  REQUIRE(ask(2) == 1); // 1 was the longest unused
  REQUIRE(ask(1) == 0);
  REQUIRE(cache.counts().hits == 1);
  REQUIRE(cache.counts().misses == 4);
}

TEST_CASE("ExpertCache refuses what it cannot hold, and survives layers out of order") {
  REQUIRE_THROWS_AS(ExpertCache(0, 1, 1), Error);
  REQUIRE_THROWS_AS(ExpertCache(1, 1, 0), Error);
  REQUIRE_THROWS_AS(ExpertCache(1, 1, 1, {.threshold = 1.5}), Error);
  ExpertCache cache(2, 4, 2);
  REQUIRE_THROWS_AS(cache.begin({{0, 0, 0, 0}}), Error);
  REQUIRE_THROWS_AS(cache.begin({{0, 0, 0, 0}, {0}}), Error);
  REQUIRE_THROWS_AS(cache.demand(0, {4}), Error);
  REQUIRE_THROWS_AS(cache.demand(2, {0}), Error);
  REQUIRE_THROWS_AS(cache.demand(0, {0, 1, 2}), Error);
  REQUIRE(cache.demand(0, {1, 1, 1}).size() == 1);
  (void)cache.begin({{0.9, 0.9, 0, 0}, {0, 0, 0.9, 0}});
  REQUIRE(cache.demand(1, {0, 3}).size() == 2); // before layer 0, which holds both slots
  REQUIRE(cache.demand(0, {}).empty());
}

} // namespace expert_cache_test
