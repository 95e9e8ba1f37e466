// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/router/input_jitter.hpp>
#include <kokomo/router/replay.hpp>
#include <kokomo/router/self_healing.hpp>
#include <kokomo/router/top_k.hpp>

using example::set;

/// A layer with this router, and experts that compile fast.
template <class Scorer, class Selector>
using LayerOf = kokomo::Layer<kokomo::Router<Scorer, Selector>, kokomo::NormalizedSoftmaxGate, kokomo::NoBalancer,
                              kokomo::test::ScaleExperts>;

TEST_CASE("input_jitter") {
  // [snippet:input_jitter]
  using Layer = LayerOf<kokomo::InputJitter<kokomo::LinearScorer>, kokomo::TopK<1>>;
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2}, {.router = {.scorer = {.epsilon = 0.1f, .seed = 3}}});
  run.set_logits({{1, 2}, {1, 2}});
  run.forward();
  REQUIRE(run.logits() == Table<double>{{1, 2}, {1, 2}});
  run.forward(kokomo::Mode::training);
  auto const z = run.logits(); // each element of x has its own draw
  REQUIRE((z[0] != z[1] && std::abs(z[0][0] - 1) < 0.1 && std::abs(z[0][1] - 2) < 0.2));
  // [/snippet]
}

TEST_CASE("self_healing") {
  // [snippet:self_healing]
  using Layer = LayerOf<kokomo::LinearScorer, kokomo::SelfHealing<kokomo::TopK<1>>>;
  Example<Layer> run({.tokens = 2, .hidden = 3, .experts = 3});
  run.set_logits({{3, 2, 1}, {1, 2, 3}});
  set(run.state.selector.failed, 1, 0); // expert 0 has failed
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{1}, {2}});
  REQUIRE((run.status().rerouted == 1 && run.status().escalated == 0));
  Kokkos::deep_copy(run.state.selector.failed, 1); // and now all of them
  run.forward();
  REQUIRE(run.status().escalated == 2);
  // [/snippet]
}

TEST_CASE("replay") {
  // [snippet:replay]
  using Layer = LayerOf<kokomo::LinearScorer, kokomo::Replay<kokomo::TopK<1>>>;
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2});
  Kokkos::View<kokomo::index_t**, Kokkos::LayoutRight> const recording("recording", 2, 1);
  run.set_logits({{1, 0}, {0, 1}});
  run.inputs.selector.record = recording;
  run.forward();
  run.inputs.selector = {};
  run.inputs.selector.replay = recording;
  run.set_logits({{0, 1}, {1, 0}}); // the router would choose the other way round by now
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}});
  // [/snippet]
}
