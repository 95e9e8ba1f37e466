// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/balanced_training.hpp>

TEST_CASE("deepseek_moe") {
  // [snippet:deepseek_moe]
  using Layer = kokomo::models::DeepseekMoe<>;
  Example<Layer> run(
      {.tokens = 2, .hidden = 4, .experts = 4},
      {.router = {.selector = {.k = 2}},
       .balancer = kokomo::models::deepseek_moe_balance(/*alpha_1*/ 1, /*alpha_2*/ 0.1f, /*k*/ 2, /*devices*/ 2),
       .experts = {.routed = {.intermediate = 4}, .shared = {.intermediate = 8}, .count = 1}});
  auto const l = [](double p) { return std::log(p); };
  run.set_logits({{l(0.4), l(0.3), l(0.2), l(0.1)}, {l(0.4), l(0.1), l(0.2), l(0.3)}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}, {0, 3}});
  REQUIRE(close(run.weights(), {{0.4, 0.3}, {0.4, 0.3}}));     // of the softmax over all, not normalised
  double const expert = 2 * 0.4 + 1 * 0.2 + 0 * 0.2 + 1 * 0.2; // f = E / (k T) picks
  double const device = 1.5 * (0.4 + 0.2) + 0.5 * (0.2 + 0.2); // mean f, sum of P
  REQUIRE(run.loss() == Approx(expert + 0.1 * device));
  // [/snippet]
}

TEST_CASE("deepseek_v2_training") {
  // [snippet:deepseek_v2_training]
  using Layer = kokomo::models::DeepseekV2Training<>;
  Example<Layer> run(
      {.tokens = 2, .hidden = 6, .experts = 6}, // three devices of two experts
      {.router = {.selector = {.k = 3, .groups = 3, .allowed_groups = 2, .group_score = kokomo::GroupScore::max}},
       .balancer = kokomo::models::deepseek_v2_balance(/*expert*/ 1, /*device*/ 0.1f,
                                                       /*communication*/ 0.01f, /*k*/ 3, 3, 2),
       .experts = {.routed = {.intermediate = 4}, .shared = {.intermediate = 8}}});
  auto const l = [](double p) { return std::log(p); };
  run.set_logits({{l(0.3), l(0.06), l(0.25), l(0.04), l(0.2), l(0.15)}, // the third device is not allowed: 1 before 4
                  {l(0.3), l(0.22), l(0.1), l(0.12), l(0.2), l(0.06)}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 2, 1}, {0, 1, 4}});
  REQUIRE(close(run.weights(), {{0.3, 0.25, 0.06}, {0.3, 0.22, 0.2}}));
  std::vector<double> const p{0.3, 0.14, 0.175, 0.08, 0.2, 0.105}; // means
  double const expert = 2 * p[0] + 2 * p[1] + 1 * p[2] + 1 * p[4]; // E / (k T) = 1
  double const device = 2 * (p[0] + p[1]) + 0.5 * (p[2] + p[3]) + 0.5 * (p[4] + p[5]);
  double const communication = 1.5 * (p[0] + p[1]) + 0.75 * (p[2] + p[3]) + 0.75 * (p[4] + p[5]); // 3 / (2 T) tokens
  REQUIRE(run.loss() == Approx(expert + 0.1 * device + 0.01 * communication));
  // [/snippet]
}

TEST_CASE("deepseek_v2_dropping") {
  // [snippet:deepseek_v2_dropping]
  using Layer = kokomo::models::DeepseekV2Dropping<>;
  Example<Layer> run(
      {.tokens = 4, .hidden = 4, .experts = 4}, // two devices, each with 4 * 1 / 2 places
      {.router = {.selector = {.k = 1, .groups = 2, .allowed_groups = 1, .group_score = kokomo::GroupScore::max}},
       .balancer = kokomo::models::deepseek_v2_balance(0, 0, 0, /*k*/ 1, 2, 1),
       .experts = {.routed = {.intermediate = 4}, .shared = {.intermediate = 8}},
       .capacity = kokomo::models::deepseek_v2_capacity(/*devices*/ 2)});
  run.set_logits({{1, 0, 0, 0}, {0, 2, 0, 0}, {3, 0, 0, 0}, {0, 0, 0, 1}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}, {0}, {3}});
  REQUIRE(run.executed() == Table<kokomo::index_t>{{}, {1}, {0}, {3}}); // the first device drops its least affinity
  // [/snippet]
}

TEST_CASE("deepseek_v3_training") {
  // [snippet:deepseek_v3_training]
  using Layer = kokomo::models::DeepseekV3Training<>;
  Example<Layer> run({.tokens = 4, .hidden = 4, .experts = 4},
                     {.router = {.selector = {.k = 2, .groups = 2, .allowed_groups = 1}},
                      .gate = {.normalize = kokomo::Normalize::sum_plus_epsilon, .epsilon = 1e-20f, .scale = 2.5f},
                      .balancer = kokomo::models::deepseek_v3_balance(/*k*/ 2, /*tokens_per_sequence*/ 2),
                      .experts = {.routed = {.intermediate = 4}, .shared = {.intermediate = 4}}});
  double const a = std::log(4), b = std::log(1.5); // sigmoids 0.8 and 0.6; their sum with those of -a, -b is 2
  run.set_logits({{a, b, -b, -a}, {a, b, -b, -a}, {-a, -b, b, a}, {-a, -b, b, a}}); // two sequences
  run.forward(kokomo::Mode::training);
  double const w = 2.5 * 0.8 / 1.4;
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}, {0, 1}, {3, 2}, {3, 2}});
  REQUIRE(close(run.weights(), {{w, 2.5 - w}, {w, 2.5 - w}, {w, 2.5 - w}, {w, 2.5 - w}}));
  REQUIRE(run.loss() == Approx(1e-4 * 2 * (0.4 + 0.3))); // each sequence has f = 2 at two experts; the batch is even,
  run.layer.step(run.exec, run.state);                   // so biases stay
  auto const bias = std::get<0>(run.state.balancer.parts).bias;
  REQUIRE((host(bias)(0) == 0 && host(bias)(3) == 0));

  example::set(bias, 1, 2), example::set(bias, 1, 3); // as if the second group had been idle
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen()[0] == std::vector<kokomo::index_t>{2, 3});
  REQUIRE(run.weights()[0][0] == Approx(2.5 * 0.4 / 0.6)); // no bias in a weight,
  REQUIRE(run.loss() == Approx(1e-4 * 2 * (0.4 + 0.3)));   // nor in what the loss counts
  // [/snippet]
}

TEST_CASE("deepseek_v4_training") {
  // [snippet:deepseek_v4_training]
  using Layer = kokomo::models::DeepseekV4Training<>;
  Example<Layer> run({.tokens = 2, .hidden = 4, .experts = 4},
                     {.router = {.selector = {.k = 2}},
                      .gate = {.scale = 1.5f},
                      .balancer = kokomo::models::deepseek_v4_balance(/*k*/ 2, /*tokens_per_sequence*/ 2),
                      .experts = {.routed = {.intermediate = 4}, .shared = {.intermediate = 4}}});
  auto const z = [](double s) { return std::log(std::expm1(s * s)); }; // sqrt(softplus(z)) = s
  run.set_logits({{z(0.8), z(0.6), z(0.4), z(0.2)}, {z(0.8), z(0.6), z(0.4), z(0.2)}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}, {0, 1}});
  REQUIRE(run.weights()[0][0] == Approx(1.5 * 0.8 / 1.4));
  REQUIRE(run.loss() == Approx(1e-4 * 2 * (0.4 + 0.3))); // P = s / 2
  run.layer.step(run.exec, run.state);                   // counts 2, 2, 0, 0 of a mean of 1
  auto const bias = host(std::get<0>(run.state.balancer.parts).bias);
  REQUIRE((bias(0) == -1e-3f && bias(1) == -1e-3f && bias(2) == 1e-3f && bias(3) == 1e-3f));
  // [/snippet]
}
