// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/batch_routing.hpp>

TEST_CASE("expert_choice_moe") {
  // [snippet:expert_choice_moe]
  kokomo::Shape const shape{.tokens = 3, .hidden = 3, .experts = 3};
  Table<double> const logits{{2, 2, 0}, {0, 0, 0}, {0, 0, 2}};
  using Layer = kokomo::models::ExpertChoiceMoe<>;
  Example<Layer> run(shape, {.router = {.selector = {.factor = 1}}, .experts = {.intermediate = 4}}); // C = 3 / 3
  run.set_logits(logits);
  run.forward();
  REQUIRE(run.chosen() ==
          Table<kokomo::index_t>{{0, 1}, {}, {2}}); // one token each; two like the first, none the second
  double const both = 1 / (2 + std::exp(-2)), alone = 1 / (1 + 2 * std::exp(-2)); // softmax over experts
  REQUIRE(close(run.weights(), {{both, both}, {}, {alone}}));
  REQUIRE(run.output()[1] == std::vector<double>{0, 0, 0}); // the residual connection is all it has

  using Normalized = kokomo::models::ExpertChoiceNormalized<>;
  Example<Normalized> shared(
      shape, {.router = {.selector = {.factor = 1}}, .gate = {.scale = 2.5}, .experts = {.intermediate = 4}});
  shared.set_logits(logits);
  shared.forward();
  REQUIRE(close(shared.weights(), {{1.25, 1.25}, {}, {2.5}}));
  // [/snippet]
}

TEST_CASE("nucleus_image") {
  // [snippet:nucleus_image]
  using Layer = kokomo::models::NucleusImage<>;
  Layer::Policies policies;
  kokomo::models::configure_nucleus_image(policies, /*factor*/ 1, /*tokens_per_image*/ 2); // C = ceil(2 / 3)
  policies.experts.routed.intermediate = policies.experts.shared.intermediate = 4;
  Example<Layer> run({.tokens = 4, .hidden = 3, .experts = 3, .router_hidden = 1 + 3}, policies);
  // The same image at two timesteps: one number of its embedding, then the token as it was before modulation.
  kokomo::OwnedMatrix<float, Layer::Exec> const seen("seen by the router", 4, 4);
  kokomo::test::to_device(std::vector<double>{-4, 1, 0, 1, -4, 0, 0, -1, 4, 1, 0, 1, 4, 0, 0, -1}, seen);
  run.inputs.router_input = seen;
  example::fill(run.parameters.router.weight, 0); // logits are the token's numbers,
  for (int e = 0; e < 3; ++e) example::set(run.parameters.router.weight, 1, e, 1 + e);
  example::set(run.parameters.router.weight, 1, 2, 0); // and the timestep is added to the third
  run.forward();
  // softmax over experts: while the third one is weak the first prefers z0 - z1 = 1 to 0; then z0 - z2 = 1 to 0
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 2}, {1}, {2}, {0, 1}});
  double const first = example::sigmoid(1 - (1 - 4)); // of two takers, normalised
  REQUIRE(close(run.weights(), {{2.5 * first, 2.5 * (1 - first)}, {2.5}, {2.5}, {1.25, 1.25}}));
  // [/snippet]
}

TEST_CASE("expert_selection_mesh") {
  // [snippet:expert_selection_mesh]
  using Layer = kokomo::models::ExpertSelectionMesh<>;
  Example<Layer> run({.tokens = 4, .hidden = 2, .experts = 2},
                     {.router = {.selector = {.places = 2, .tokens_per_sequence = 4}},
                      .balancer = {.coefficient = 1, .tokens_per_sequence = 4},
                      .experts = {.intermediate = 4},
                      .adjust = {.tokens_per_sequence = 4}});
  // An expert's shares of the four tokens: 4, 2, 1 and 1 eighths; 4, 1, 2 and 1.
  run.set_logits({{std::log(4), std::log(4)}, {std::log(2), 0}, {0, std::log(2)}, {0, 0}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}, {0}, {1}, {}});
  REQUIRE(close(run.weights(), {{0.25, 0.25}, {0.25}, {0.25}, {}})); // one half over two takers; one quarter alone
  double const a = 8.0 / 16, b = 3.0 / 16, d = 2.0 / 16;             // mean shares of the tokens
  REQUIRE(run.loss() == Approx(4 * (a * a + 2 * b * b + d * d)));    // 1.34; 1 where all are taken alike
  // [/snippet]
}

TEST_CASE("mixture_of_depths") {
  // [snippet:mixture_of_depths]
  using Layer = kokomo::models::MixtureOfDepths<>;
  Example<Layer> run({.tokens = 4, .hidden = 1, .experts = 1},
                     {.router = {.selector = {.factor = 0.5, // C = 2, and 0.125 in the source
                                              .tokens_per_sequence = 4,
                                              .inference = kokomo::InferenceChoice::above_threshold}},
                      .balancer = {.coefficient = 1},
                      .experts = {.intermediate = 4}});
  run.set_logits({{-2}, {3}, {-1}, {-0.5}});
  run.forward(kokomo::Mode::training);
  REQUIRE(close(run.weights(), {{}, {3}, {}, {-0.5}})); // the two best, by their raw logits
  REQUIRE((run.output()[0][0] == 0 && run.output()[2][0] == 0));
  double const loss =
      std::log1p(std::exp(-2)) + std::log1p(std::exp(-3)) + std::log1p(std::exp(-1)) + std::log1p(std::exp(0.5));
  REQUIRE(run.loss() == Approx(loss / 4));
  run.forward(kokomo::Mode::inference); // z > 0: what the loss teaches until both agree
  REQUIRE(close(run.weights(), {{}, {3}, {}, {}}));
  // [/snippet]
}

TEST_CASE("mixture_of_depths_predicted") {
  // [snippet:mixture_of_depths_predicted]
  using Layer = kokomo::models::MixtureOfDepthsPredicted<>;
  Example<Layer> run({.tokens = 4, .hidden = 1, .experts = 1},
                     {.router = {.scorer = {.predictor = {.hidden = 1}},
                                 .selector = {.factor = 0.5,
                                              .tokens_per_sequence = 4,
                                              .inference = kokomo::InferenceChoice::predicted}},
                      .balancer = {.coefficient = 1, .predicted = true},
                      .experts = {.intermediate = 4}});
  example::fill(run.parameters.router.router.weight, 1);            // z = x
  example::fill(run.parameters.router.predictor.hidden_weight, -1); // prediction = max(-x, 0): it has not learnt yet
  example::fill(run.parameters.router.predictor.weight, 1);
  run.set_x({{3}, {-2}, {1}, {-1}});
  run.forward(kokomo::Mode::training);
  REQUIRE(close(run.weights(), {{3}, {}, {1}, {}})); // the two best
  double const loss = 2 * std::log(2) + std::log1p(std::exp(2)) + std::log1p(std::exp(1));
  REQUIRE(run.loss() == Approx(loss / 4)); // of the predictions 0, 2, 0, 1
  run.forward(kokomo::Mode::inference);
  REQUIRE(close(run.weights(), {{}, {-2}, {}, {-1}})); // those predicted, weighed by z all the same
  // [/snippet]
}
