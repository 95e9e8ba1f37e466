// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/cache/expert_cache.hpp>
#include <kokomo/cache/expert_store.hpp>
#include <kokomo/cache/token_scheduler.hpp>
#include <kokomo/models/mixtral.hpp>
#include <kokomo/models/placed.hpp>

TEST_CASE("expert_cache") {
  // [snippet:expert_cache]
  kokomo::cache::ExpertCache cache(/*layers*/ 2, /*experts*/ 4, /*slots*/ 3);
  auto const ahead = cache.begin({{0.9, 0.8, 0, 0}, {0, 0, 0.7, 0.6}});
  REQUIRE(ahead.size() == 3); // both experts of layer 0, and the likelier one of layer 1
  auto const now = cache.demand(0, {0, 3});
  REQUIRE(now.size() == 1);          // 3 was not expected; it takes the place of 1, which is not needed
  REQUIRE(cache.end(0).size() == 1); // expert 3 of layer 1
  REQUIRE(cache.demand(1, {2, 3}).empty());
  REQUIRE(cache.counts().hits == 3);
  REQUIRE(cache.counts().misses == 1);
  // [/snippet]
}

TEST_CASE("token_scheduler") {
  // [snippet:token_scheduler]
  std::vector<kokomo::cache::Path> const paths{{0, 4}, {2, 6}, {0, 5}, {3, 6}}; // layer * experts + expert
  auto const halves = kokomo::cache::schedule_tokens(paths);
  REQUIRE(halves.first == std::vector<kokomo::offset_t>{0, 2});
  REQUIRE(halves.second == std::vector<kokomo::offset_t>{1, 3});
  REQUIRE(kokomo::cache::experts_needed(paths, halves) == 6); // {0, 4, 5} and {2, 3, 6}; in the given order 8
  REQUIRE(kokomo::cache::experts_needed(paths, {{0, 1}, {2, 3}}) == 8);
  // [/snippet]
}

namespace {

using Cached = kokomo::models::Cached<kokomo::models::Mixtral<>>;

} // namespace

TEST_CASE("expert_store") {
  // [snippet:expert_store]
  kokomo::Shape const shape{.tokens = 1, .hidden = 4, .experts = 4};
  auto const settings = [](kokomo::index_t places) {
    return Cached::Policies{
        .router = {.selector = {.k = 2}}, .experts = {.intermediate = 8}, .placement = {.stored = places}};
  };
  Example<Cached> all(shape, settings(4)), run(shape, settings(2)); // two layers of one size
  kokomo::cache::ExpertStore<Cached> store(run.exec, run.layer, /*layers*/ 1);
  store.put(0, all.parameters.experts); // four experts, of which two fit
  run.parameters.experts = store.slots();
  for (auto const& logits : {Table<double>{{3, 2, 1, 0}}, Table<double>{{0, 3, 1, 2}}}) {
    run.set_logits(logits);
    store.begin(run.exec, {{1, 1, 0, 0}}); // the same prediction twice, right once
    store.forward(run.exec, 0, run.layer, run.parameters, run.state, run.inputs, run.y, run.workspace, run.tape);
  }
  REQUIRE(store.cache().counts().misses == 1); // expert 3
  REQUIRE(store.cache().counts().hits == 3);
  // [/snippet]
  all.set_logits({{0, 3, 1, 2}});
  all.layer.policies().placement.set(all.exec, all.state.placement, {0, 1, 2, 3});
  all.forward();
  REQUIRE(run.output() == all.output());
}
