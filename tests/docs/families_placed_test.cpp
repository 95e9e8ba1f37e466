// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/cache/expert_store.hpp>
#include <kokomo/compress/merge_experts.hpp>
#include <kokomo/models/mixtral.hpp>
#include <kokomo/models/placed.hpp>
#include <kokomo/stats/loads.hpp>

namespace {

using Mixtral = kokomo::models::Mixtral<>;

} // namespace

TEST_CASE("mc_smoe") {
  // [snippet:mc_smoe]
  namespace compress = kokomo::compress;
  using Merged = kokomo::models::McSmoe<Mixtral>;
  kokomo::Shape const shape{.tokens = 16, .hidden = 4, .experts = 4};
  Example<Mixtral> run(shape, {.router = {.selector = {.k = 2}}, .experts = {.intermediate = 6}});
  run.forward(); // the calibration set

  auto const alpha = compress::usage(kokomo::stats::loads(run.exec, run.layer, run.tape).rows);
  std::vector<double> logits;
  for (auto const& row : run.logits()) logits.insert(logits.end(), row.begin(), row.end());
  auto const groups = compress::group_experts(alpha, compress::logit_similarity(logits, 4), 2);
  auto const& experts = run.layer.policies().experts;
  auto const units = compress::read_units(run.exec, experts, run.parameters.experts);

  Example<Merged> small(shape, kokomo::models::with_placement<Merged>(run.layer.policies(), {.stored = 2}));
  small.parameters.router = run.parameters.router;
  small.inputs.x = run.x;
  compress::write_units(run.exec, experts, small.parameters.experts, compress::merge_experts(units, groups, alpha));
  small.layer.policies().placement.set(run.exec, small.state.placement, groups.group_of_expert);
  small.forward();
  REQUIRE(small.chosen() == run.chosen()); // the router is the old one, the experts are half as many
  // [/snippet]
}

TEST_CASE("cached") {
  // [snippet:cached]
  using Cached = kokomo::models::Cached<Mixtral>;
  kokomo::Shape const shape{.tokens = 2, .hidden = 4, .experts = 8};
  Mixtral::Policies const policies{.router = {.selector = {.k = 2}}, .experts = {.intermediate = 6}};
  Example<Mixtral> loaded(shape, policies); // where a checkpoint was read into
  Example<Cached> run(shape, kokomo::models::with_placement<Cached>(policies, {.stored = 4}));
  kokomo::cache::ExpertStore<Cached> store(run.exec, run.layer, /*layers*/ 2);
  for (kokomo::index_t const l : {0, 1}) store.put(l, loaded.parameters.experts);
  run.parameters.experts = store.slots();
  run.parameters.router = loaded.parameters.router;
  run.inputs.x = loaded.x;
  store.begin(run.exec, kokomo::cache::ExpertCache::Prediction(2, std::vector<double>(8, 0.6)));
  for (kokomo::index_t const l : {0, 1}) // here both layers are one
    store.forward(run.exec, l, run.layer, run.parameters, run.state, run.inputs, run.y, run.workspace, run.tape);
  // [/snippet]
  loaded.forward();
  REQUIRE(run.chosen() == loaded.chosen());
  REQUIRE(close(run.output(), loaded.output()));
}
