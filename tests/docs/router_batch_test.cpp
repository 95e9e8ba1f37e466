// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/router/balanced_assignment.hpp>
#include <kokomo/router/expert_choice.hpp>
#include <kokomo/router/sinkhorn_top_k.hpp>
#include <kokomo/router/top_k.hpp>

TEST_CASE("expert_choice") {
  // [snippet:expert_choice]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::ExpertChoice>>;
  static_assert(!Layer::causal);
  Example<Layer> run({.tokens = 4, .hidden = 2, .experts = 2},
                     {.router = {.selector = {.factor = 1}}, .experts = {.intermediate = 4}}); // C = 4 / 2
  run.set_logits({{9, 0}, {8, 0}, {1, 0}, {0, 0}});
  run.forward();
  // expert 0 takes the two largest of softmax(z)_0, expert 1 those of softmax(z)_1
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}, {1}, {1}});
  // [/snippet]
}

TEST_CASE("sinkhorn_top_k") {
  // [snippet:sinkhorn_top_k]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::SinkhornTopK>,
                              kokomo::ScoreGate<kokomo::SigmoidScore>>;
  Example<Layer> run({.tokens = 4, .hidden = 2, .experts = 2},
                     {.router = {.selector = {.k = 1}}, .experts = {.intermediate = 4}});
  run.set_logits({{4, 0}, {3, 0}, {2, 0}, {1, 0}}); // all prefer expert 0
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}, {1}, {1}});
  REQUIRE(close(run.weights(), {{example::sigmoid(4)}, {example::sigmoid(3)}, {0.5}, {0.5}})); // of the logits
  run.forward(kokomo::Mode::inference);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}, {0}, {0}});
  // [/snippet]
}

TEST_CASE("balanced_assignment") {
  // [snippet:balanced_assignment]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::BalancedAssignment>,
                              kokomo::ScoreGate<kokomo::SigmoidScore>>;
  Example<Layer> run({.tokens = 5, .hidden = 2, .experts = 2}, {.experts = {.intermediate = 4}});
  run.set_logits({{5, 1}, {4, 3}, {4, 0}, {3, 2.5}, {2, 0}}); // all prefer expert 0, by 4, 1, 4, 0.5 and 2
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}, {0}, {1}, {0}}); // the two that lose least
  run.forward(kokomo::Mode::inference);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}, {0}, {0}, {0}});
  // [/snippet]
}
