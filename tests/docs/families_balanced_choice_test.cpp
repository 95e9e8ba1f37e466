// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/batch_routing.hpp>

TEST_CASE("sinkhorn_megatron") {
  // [snippet:sinkhorn_megatron]
  using Layer = kokomo::models::SinkhornMegatronTopK<>;
  Example<Layer> run({.tokens = 3, .hidden = 3, .experts = 3},
                     {.router = {.selector = {.k = 2}}, .experts = {.intermediate = 4}});
  run.set_logits({{5 + 2, 1, 0}, {5 + 0, 2, 1}, {5 + 1, 0, 2}}); // all like expert 0 better by 5
  run.forward(kokomo::Mode::training);                           // a factor of the plan's column takes that out
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}, {1, 2}, {2, 0}});
  double const sum = std::exp(6) + 1 + std::exp(2); // the weights are a softmax of the logits, 5 included
  REQUIRE(close({run.weights()[2]}, {{std::exp(2) / sum, std::exp(6) / sum}}));
  run.forward(kokomo::Mode::inference);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}, {0, 1}, {0, 2}});

  using Single = kokomo::models::SinkhornMegatron<>;
  Example<Single> one({.tokens = 2, .hidden = 2, .experts = 2}, {.experts = {.intermediate = 4}});
  one.set_logits({{3, 0}, {1, 0}});
  one.forward(kokomo::Mode::training); // one token each: the first prefers expert 0 the most
  REQUIRE(one.chosen() == Table<kokomo::index_t>{{0}, {1}});
  REQUIRE(close(one.weights(), {{example::sigmoid(3)}, {0.5}}));
  // [/snippet]
}

TEST_CASE("selective_sinkhorn_routing") {
  // [snippet:selective_sinkhorn_routing]
  using Layer = kokomo::models::SelectiveSinkhornRouting<>;
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2},
                     {.router = {.selector = {.k = 2}},
                      .experts = {.intermediate = 4},
                      .adjust = {.probability = 1, .regularization = 0.5f, .tolerance = 1e-6f}}); // every training step
  run.set_logits({{4 + 0.73, 0.27}, {4 + 0.27, 0.73}}); // both like expert 0 better by 4
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}, {1, 0}}); // the plan does not
  double const p = example::sigmoid((0.73 - 0.27) / 0.5);          // its closed form for two by two
  REQUIRE(close(run.weights(), {{p, 1 - p}, {p, 1 - p}}));
  run.forward(kokomo::Mode::inference);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}, {0, 1}});
  REQUIRE(close({run.weights()[1]}, {{example::sigmoid(3.54), example::sigmoid(-3.54)}}));

  using Noisy = kokomo::models::SelectiveSinkhornNoisy<>;
  Example<Noisy> noisy({.tokens = 2, .hidden = 2, .experts = 2},
                       {.router = {.scorer = {.scale = kokomo::NoiseScale::fixed, .fixed_deviation = 2 * 0.1f}, // 0.1
                                   .selector = {.k = 2}},
                        .experts = {.intermediate = 4},
                        .adjust = {.probability = 1, .regularization = 0.5f, .tolerance = 1e-6f}});
  noisy.set_logits({{4 + 0.73, 0.27}, {4 + 0.27, 0.73}});
  noisy.forward(kokomo::Mode::inference); // no noise, no plan
  REQUIRE(close(noisy.weights(), run.weights()));
  noisy.forward(kokomo::Mode::training);
  auto const weights = noisy.weights();
  REQUIRE(std::abs(weights[0][0] - p) > 1e-4);                 // the plan of noisy logits,
  REQUIRE(std::abs(weights[0][0] + weights[1][1] - 1) < 1e-5); // whose columns have equal sums
  // [/snippet]
}

TEST_CASE("base_layer") {
  // [snippet:base_layer]
  using Layer = kokomo::models::BaseLayer<>;
  Example<Layer> run({.tokens = 4, .hidden = 2, .experts = 2}, {.experts = {.intermediate = 4}});
  example::fill(run.parameters.experts.down, 0);      // as the source begins
  run.set_logits({{4, 0}, {3, 0}, {2, 0}, {1.5, 0}}); // all prefer expert 0, the last two the least
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}, {1}, {1}}); // two each, with the largest sum: 4 + 3 + 0 + 0
  REQUIRE(close(run.weights(), {{example::sigmoid(4)}, {example::sigmoid(3)}, {0.5}, {0.5}}));
  REQUIRE(run.output() == Table<double>(4, {0, 0})); // x + 0 in its residual connection
  run.forward(kokomo::Mode::inference);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}, {0}, {0}}); // the best, however many
  // [/snippet]
}

TEST_CASE("gshard") {
  // [snippet:gshard]
  using Layer = kokomo::models::GShard<>;
  auto const run_with = [](kokomo::Drops drops) {
    Example<Layer> run({.tokens = 3, .hidden = 2, .experts = 2},
                       {.router = {.selector = {.second = kokomo::SecondExpert::random,
                                                .normalized_threshold = true,
                                                .threshold = 0.2f}},
                        .gate = {.drops = drops},
                        .balancer = {.coefficient = 1, .top_k = 1},
                        .experts = {.intermediate = 4},
                        .capacity = {.places = 2}});
    // p2 / (p1 + p2) is 0.27 for the outer tokens, above the threshold: kept for sure. It is 1e-13 for the other: never.
    run.set_logits({{0, 1}, {30, 0}, {2, 1}});
    run.forward(kokomo::Mode::training);
    REQUIRE(run.chosen() == Table<kokomo::index_t>{{1, 0}, {0}, {0, 1}});
    REQUIRE(run.executed() == Table<kokomo::index_t>{{1}, {0}, {0, 1}}); // expert 0: two first choices before a second
    double const f = 2.0 / 3, P = (example::sigmoid(-1) + 1 + example::sigmoid(1)) / 3; // of expert 0, first choices
    REQUIRE(run.loss() == Approx(2 * (f * P + (1 - f) * (1 - P))));
    return run.weights()[0][0];
  };
  REQUIRE(run_with(kokomo::Drops::keep_share) == Approx(example::sigmoid(1))); // what was dropped keeps its share
  REQUIRE(run_with(kokomo::Drops::renormalize) == Approx(1));
  // [/snippet]
}

TEST_CASE("v_moe") {
  // [snippet:v_moe]
  using Layer = kokomo::models::VMoe<>;
  Example<Layer> run(
      {.tokens = 3, .hidden = 2, .experts = 2},
      {.router = {.scorer = {.scale = kokomo::NoiseScale::fixed}, .selector = {.k = 1}}, // deviation 1 / E = 1/2
       .balancer = {{{.coefficient = 1, .clean = true},
                     {.coefficient = 1, .k = 1, .threshold = kokomo::LoadThreshold::kth}}},
       .experts = {.intermediate = 4},
       .capacity = {.order = kokomo::CapacityOrder::token_priority, .places = 2}});
  run.set_logits({{1, 0}, {2, 0}, {3, 0}});                        // all want expert 0, which takes two
  run.forward();                                                   // inference: no noise
  REQUIRE(run.executed() == Table<kokomo::index_t>{{}, {0}, {0}}); // the most certain tokens, not the first ones
  REQUIRE(close({run.weights()[2]}, {{example::sigmoid(3)}}));
  auto const squared_variation = [](double a, double b) { return std::pow((a - b) / (a + b), 2); };
  auto const Phi = [](double v) { return std::erfc(-v / std::sqrt(2)) / 2; };
  double const importance = example::sigmoid(1) + example::sigmoid(2) + example::sigmoid(3);
  double const loads[] = {3 * Phi(0), Phi(-1 / 0.5) + Phi(-2 / 0.5) + Phi(-3 / 0.5)};
  REQUIRE(run.loss() == Approx(squared_variation(importance, 3 - importance) + squared_variation(loads[0], loads[1])));
  // [/snippet]
}

TEST_CASE("bip_moe") {
  // [snippet:bip_moe]
  using Layer = kokomo::models::BipMoe<>;
  Example<Layer> run({.tokens = 4, .hidden = 2, .experts = 2},
                     {.router = {.selector = {.k = 1}}, .experts = {.intermediate = 4}}); // c = 1 * 4 / 2
  run.set_logits({{4, 0}, {3, 0}, {2, 0}, {1, 0}}); // all prefer expert 0, by s_0 - s_1 = tanh(z / 2)
  run.forward(kokomo::Mode::training);
  // q_0 is the third largest of s_0 - s_1, so that the third token is indifferent; q_1 stays zero.
  auto const bias = host(run.state.balancer.bias); // -q
  REQUIRE((bias(0) == Approx(-std::tanh(1)) && bias(1) == 0));
  auto const chosen = run.chosen();
  REQUIRE((chosen[0][0] == 0 && chosen[1][0] == 0 && chosen[3][0] == 1)); // already the first batch
  REQUIRE(run.weights()[3][0] == Approx(example::sigmoid(-1)));           // of the score alone
  // [/snippet]
}
