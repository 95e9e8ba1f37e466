// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <kokomo/cache/expert_store.hpp>
#include <kokomo/cache/token_scheduler.hpp>
#include <kokomo/models/placed.hpp>

#include <support/catch.hpp>
#include <support/layer_fixture.hpp>

#include <memory>

namespace expert_store_test {

using namespace kokomo;
using namespace kokomo::cache;
using namespace kokomo::test;

using Cached =
    models::Cached<Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, double, Exec>>;

constexpr index_t layers = 3, experts = 9, places = 8;
constexpr Shape shape{.tokens = 12, .hidden = 6, .experts = experts};

Cached::Policies policies(index_t stored) {
  return {.router = {.selector = {.k = 4}}, .experts = {.intermediate = 5}, .placement = {.stored = stored}};
}

/// Layers one after the other, each reading what the one before wrote, with all experts where they are computed. `through`
/// runs any of them on some of the tokens.
struct Stack {
  std::vector<std::unique_ptr<Fixture<Cached>>> of_layer;

  Stack() {
    std::vector<index_t> own(static_cast<std::size_t>(experts));
    for (index_t e = 0; e < experts; ++e) own[std::size_t(e)] = e;
    for (index_t l = 0; l < layers; ++l) {
      of_layer.push_back(std::make_unique<Fixture<Cached>>(shape, policies(experts), unsigned(l + 1)));
      to_device(own, of_layer.back()->state.placement.slot_of_expert);
    }
  }
  template <class Run> std::vector<Row> through(std::vector<offset_t> const& tokens, Run const& run) const {
    Rows const all = in_rows(tensor(of_layer[0]->x).read(), std::size_t(shape.tokens));
    Row rows;
    for (offset_t const t : tokens) rows.insert(rows.end(), all[std::size_t(t)].begin(), all[std::size_t(t)].end());
    Fixture<Cached>::Batch const x("x", tokens.size(), std::size_t(shape.hidden)), y("y", x.extent(0), x.extent(1));
    tensor(x).write(rows);
    std::vector<Row> outputs;
    for (index_t l = 0; l < layers; ++l) {
      poison_view(y);
      run(l, x, y);
      Kokkos::fence();
      outputs.push_back(tensor(y).read());
      Kokkos::deep_copy(x, y);
    }
    return outputs;
  }
  /// Outputs of all layers, and what they chose.
  std::vector<Row> whole(std::vector<offset_t> const& tokens, std::vector<stats::Choices>* choices = nullptr) const {
    return through(tokens, [&](index_t l, auto const& x, auto const& y) {
      auto& f = *of_layer[std::size_t(l)];
      f.layer.forward(f.exec, f.parameters, f.state, x, y, f.workspace, f.tape);
      if (choices != nullptr) choices->push_back(stats::choices(f.exec, f.layer.saved(f.tape).assignment));
    });
  }
};

/// The same layers from a store.
struct Stored {
  Exec exec;
  Cached layer;
  ExpertStore<Cached> store;
  std::vector<typename Cached::Parameters> parameters;
  std::vector<typename Cached::State> state;
  Workspace<Exec> workspace;
  Tape<Exec> tape;

  Stored(Stack const& stack, CacheSettings const& settings = {})
      : layer(shape, policies(places)), store(exec, layer, layers, settings), workspace(exec, layer.plan(exec)),
        tape(exec, layer.plan(exec)) {
    for (index_t l = 0; l < layers; ++l) {
      store.put(l, stack.of_layer[std::size_t(l)]->parameters.experts);
      parameters.push_back(stack.of_layer[std::size_t(l)]->parameters);
      parameters.back().experts = store.slots();
      state.push_back(layer.make_state(exec));
    }
  }
  std::vector<Row> run(Stack const& stack, std::vector<offset_t> const& tokens,
                       ExpertCache::Prediction const& prediction) {
    store.begin(exec, prediction);
    return stack.through(tokens, [&](index_t l, auto const& x, auto const& y) {
      typename Cached::Inputs inputs;
      inputs.x = x;
      store.forward(exec, l, layer, parameters[std::size_t(l)], state[std::size_t(l)], inputs, y, workspace, tape);
      REQUIRE(layer.status(exec, tape).invalid_ids == 0);
    });
  }
};

ExpertCache::Prediction predict(std::vector<stats::Choices> const& choices, bool rightly) {
  ExpertCache::Prediction p;
  for (auto const& of_layer : choices) {
    p.emplace_back(std::size_t(experts), rightly ? 0.0 : 1.0);
    for (auto const& entries : of_layer.of_token)
      for (auto const& entry : entries) p.back()[std::size_t(entry.expert)] = rightly ? 1.0 : 0.0;
  }
  return p;
}

TEST_CASE("Outputs from a store are those of layers that have all experts, to the bit, whatever is predicted") {
  Stack const stack;
  std::vector<std::vector<offset_t>> const batches{{0, 1}, {2}, {3, 4}, {5, 6}};
  for (int kind = 0; kind < 4; ++kind) { // perfect, adversarial, none, least recently used
    Stored stored(stack, {.strategy = kind == 3 ? Strategy::least_recent : Strategy::predicted});
    for (auto const& batch : batches) {
      std::vector<stats::Choices> choices;
      auto const expected = stack.whole(batch, &choices);
      auto const prediction =
          kind == 2 ? ExpertCache::Prediction(layers, std::vector<double>(experts, 0.0)) : predict(choices, kind == 0);
      REQUIRE(stored.run(stack, batch, prediction) == expected);
    }
    auto const& counts = stored.store.cache().counts();
    REQUIRE((kind != 0 || counts.misses == 0));
    REQUIRE((kind != 2 || counts.prefetches == 0));
    REQUIRE(counts.hits + counts.misses > 0);
  }
}

TEST_CASE("Tokens regrouped into two halves and put back have the outputs that they had, and need fewer experts") {
  Stack const stack;
  std::vector<offset_t> all(std::size_t(shape.tokens));
  for (std::size_t t = 0; t < all.size(); ++t) all[t] = offset_t(t);
  std::vector<stats::Choices> choices;
  auto const expected = in_rows(stack.whole(all, &choices).back(), all.size());
  auto const paths = paths_of(choices);
  auto const halves = schedule_tokens(paths);
  Halves given;
  for (offset_t const t : all) (t < 6 ? given.first : given.second).push_back(t);
  REQUIRE(experts_needed(paths, halves) <= experts_needed(paths, given));
  Rows restored(all.size());
  for (auto const* half : {&halves.first, &halves.second}) {
    auto const rows = in_rows(stack.whole(*half).back(), half->size());
    for (std::size_t i = 0; i < rows.size(); ++i) restored[std::size_t((*half)[i])] = rows[i];
  }
  REQUIRE(restored == expected);
}

TEST_CASE("A store refuses batches that ask for more than its slots, and experts of other sizes") {
  Stack const stack;
  Stored stored(stack);
  std::vector<offset_t> all(std::size_t(shape.tokens));
  for (std::size_t t = 0; t < all.size(); ++t) all[t] = offset_t(t);
  REQUIRE_THROWS_AS(stored.run(stack, all, {layers, std::vector<double>(experts, 0.0)}), Error); // nine of eight
  REQUIRE_THROWS_AS(stored.store.put(layers, stack.of_layer[0]->parameters.experts), Error);
  REQUIRE_THROWS_AS(stored.store.put(0, stored.store.slots()), Error);
  REQUIRE(stored.store.expert_bytes() == 3 * 5 * 6 * sizeof(double));
}

} // namespace expert_store_test
