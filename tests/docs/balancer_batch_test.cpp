// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/balancer/bip_balancing.hpp>
#include <kokomo/balancer/membership_loss.hpp>
#include <kokomo/router/expert_choice.hpp>

TEST_CASE("bip_balancing") {
  // [snippet:bip_balancing]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>,
                              kokomo::ScoreGate<kokomo::IdentityScore>, kokomo::BipBalancing>;
  Example<Layer> run({.tokens = 4, .hidden = 2, .experts = 2}, {.experts = {.intermediate = 4}});
  run.set_logits({{4, 0}, {3, 0}, {2, 0}, {1, 0}}); // all prefer expert 0
  run.forward(kokomo::Mode::training);
  // already the first batch: q makes the third token indifferent, and ties go to the smaller expert
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}, {0}, {1}});
  REQUIRE(close(run.weights(), {{4}, {3}, {2}, {0}})); // of the logits alone
  // [/snippet]
}

TEST_CASE("membership_loss") {
  // [snippet:membership_loss]
  using Depths = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::ExpertChoice>,
                               kokomo::ScoreGate<kokomo::IdentityScore>, kokomo::MembershipLoss>;
  Example<Depths> run({.tokens = 4, .hidden = 1, .experts = 1},
                      {.router = {.selector = {.factor = 0.25, .inference = kokomo::InferenceChoice::above_threshold}},
                       .balancer = {.coefficient = 1},
                       .experts = {.intermediate = 4}});
  run.set_logits({{-2}, {3}, {-1}, {1}});
  run.forward(kokomo::Mode::training); // a quarter of the tokens
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{}, {0}, {}, {}});
  double const expected = -std::log(example::sigmoid(2)) - std::log(example::sigmoid(3)) -
                          std::log(example::sigmoid(1)) - std::log(1 - example::sigmoid(1));
  REQUIRE(std::abs(run.loss() - expected / 4) < 1e-5);
  run.forward(kokomo::Mode::inference); // those above zero: the loss would teach the last one to stay below
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{}, {0}, {}, {0}});
  // [/snippet]
}
