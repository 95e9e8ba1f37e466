// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/balanced_training.hpp>
#include <kokomo/models/decorated.hpp>
#include <kokomo/models/llama4.hpp>

TEST_CASE("switch_training") {
  // [snippet:switch_training]
  using Layer = kokomo::models::SwitchTraining<float, Kokkos::DefaultExecutionSpace, kokomo::ReluExperts>;
  Layer::Policies policies{.router = {.scorer = {.epsilon = 0}}, .experts = {.intermediate = 4}}; // no jitter: by hand
  kokomo::models::configure_switch_training(policies, /*factor*/ 1.25, /*tokens_per_sequence*/ 9);
  Example<Layer> run({.tokens = 9, .hidden = 2, .experts = 2}, policies);
  run.set_logits(Table<double>(9, {std::log(3), 0})); // all want expert 0, p = 3/4
  run.forward(kokomo::Mode::training);
  REQUIRE(run.status().dropped == 9 - 5); // C = max(4, int(1.25 * 9 / 2))
  REQUIRE((run.executed()[4].size() == 1 && run.executed()[5].empty()));
  REQUIRE(run.weights()[0][0] == Approx(0.75));
  REQUIRE(run.loss() == Approx(1e-2 * 2 * 1 * 0.75)); // E f_0 P_0, counted before the drop
  run.forward();
  REQUIRE(run.status().dropped == 0); // inference: int(2 * 9 / 2)
  // [/snippet]
}

TEST_CASE("st_moe") {
  // [snippet:st_moe]
  using Layer = kokomo::models::StMoe<float, Kokkos::DefaultExecutionSpace, kokomo::ReluExperts>;
  Example<Layer> run({.tokens = 2, .hidden = 4, .experts = 4},
                     {.balancer = {{{.coefficient = 1e-2f, .top_k = 2}, {.coefficient = 1e-3f}}},
                      .experts = {.intermediate = 4},
                      .capacity = {.factor = 1}}); // one place an expert: 2 * 2 / 4
  // exp(z) = 4, 3, 2, 1: probabilities 0.4, 0.3, 0.2, 0.1, and a log-sum-exp of ln 10
  run.set_logits(Table<double>(2, {std::log(4), std::log(3), std::log(2), 0}));
  run.forward(kokomo::Mode::training);
  REQUIRE(close(run.weights(), {{0.4, 0.3}, {0.4, 0.3}}));
  REQUIRE(run.executed() == Table<kokomo::index_t>{{0, 1}, {}});
  REQUIRE(run.status().tokens_without_expert == 1);
  REQUIRE(run.loss() == Approx(1e-2 * 4 * (0.4 + 0.3) + 1e-3 * std::log(10) * std::log(10)));
  // [/snippet]
}

TEST_CASE("sparse_mixer_training") {
  // [snippet:sparse_mixer_training]
  using Layer =
      kokomo::models::SparseMixerTraining<float, Kokkos::DefaultExecutionSpace, kokomo::SwiGluExperts>; // as PhiMoe's
  Example<Layer> run({.tokens = 1, .hidden = 4, .experts = 4},
                     {.router = {.scorer = {.epsilon = 0}, .selector = {.epsilon = 0.1f}}, // no jitter: by hand
                      .gate = {.epsilon = 0.1f},
                      .balancer = {.coefficient = 0},
                      .experts = {.intermediate = 4}});
  run.set_logits({{2, 1.9, 1, -1}}); // (2 - 1.9) / 2 <= 0.2: pick 1 sees experts 0 and 1; pick 2 sees one
  run.forward();
  double const p = example::sigmoid(0.1);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}});
  REQUIRE(close(run.weights(), {{p, 1}})); // not normalised together

  std::vector<int> seen(2, 0);
  for (run.inputs.step = 0; run.inputs.step < 32; ++run.inputs.step) {
    run.forward(kokomo::Mode::training);
    auto const first = run.chosen()[0][0];
    auto const w = run.weights();
    // Pick 1 is drawn among those that it sees; one that is not the best has its weight or a third of it.
    REQUIRE((first == 0 ? close(w, {{p, 1}}) : close(w, {{1 - p, 1}}) || close(w, {{0.3333 * (1 - p), 1}})));
    ++seen[std::size_t(first)];
  }
  REQUIRE((seen[0] > 0 && seen[1] > 0));
  // [/snippet]
}

TEST_CASE("rex_moe") {
  // [snippet:rex_moe]
  using Layer = kokomo::models::ReXMoe<>;
  Example<Layer> run(
      {.tokens = 1, .hidden = 4, .experts = 4}, // a pool of two layers, of which this is the second
      {.router = {.selector = {.k = 2}},
       .experts = {.intermediate = 4},
       .adjust = {.visible = kokomo::VisibleExperts::local, .layers = 2, .own = 1, .begin = 100, .end = 200}});
  run.set_logits({{std::log(4), std::log(3), std::log(2), 0}}); // 0.4, 0.3, 0.2, 0.1
  auto const at = [&](std::uint64_t step) {
    run.inputs.step = step;
    run.forward(kokomo::Mode::training);
    return run.chosen()[0];
  };
  REQUIRE(at(100) == std::vector<kokomo::index_t>{2, 3}); // N = 2: its own
  REQUIRE(close(run.weights(), {{0.2, 0.1}}));            // of a softmax over the whole pool
  REQUIRE(at(150) == std::vector<kokomo::index_t>{0, 2}); // floor((1 + 1/2) N) = 3 are visible: 2, 3, 0
  REQUIRE(at(201) == std::vector<kokomo::index_t>{0, 1}); // all four
  // [/snippet]
}

TEST_CASE("gpt_oss_training") {
  // [snippet:gpt_oss_training]
  using Layer = kokomo::models::GptOssTraining<>;
  Example<Layer> run({.tokens = 1, .hidden = 4, .experts = 4},
                     {.router = {.scorer = {.bias = true}, .selector = {.k = 2}},
                      .balancer = kokomo::transformers_loss(/*coefficient*/ 0.01f, /*k*/ 2),
                      .experts = {.intermediate = 4,
                                  .bias = true,
                                  .activation = {.alpha = 1.702f, .gate_max = 7, .up_limit = 7, .up_offset = 1}}});
  run.set_logits({{std::log(4), std::log(3), std::log(2), 0}});
  Kokkos::deep_copy(run.parameters.router.bias, 0.0f);
  example::set(run.parameters.router.bias, std::log(3), 2); // learned: exp(z) = 4, 3, 6, 1
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{2, 0}});
  REQUIRE(close(run.weights(), {{0.6, 0.4}}));                     // a softmax over the two
  REQUIRE(run.loss() == Approx(0.01 * 4 * (6.0 / 14 + 4.0 / 14))); // of P over all
  // [/snippet]
}

TEST_CASE("llama4") {
  // [snippet:llama4]
  using Layer = kokomo::models::Llama4<>;
  Example<Layer> run(
      {.tokens = 1, .hidden = 2, .experts = 2},
      {.router = {.selector = {.k = 1}}, .experts = {.routed = {.intermediate = 1}, .shared = {.intermediate = 1}}});
  run.set_logits({{std::log(3), 0}});
  Kokkos::deep_copy(run.parameters.experts.gate_up, 0.0f);
  Kokkos::deep_copy(run.parameters.experts.down, 0.0f);
  Kokkos::deep_copy(run.parameters.shared.experts.down, 0.0f); // the shared expert adds nothing
  for (int part : {0, 1}) example::set(run.parameters.experts.gate_up, 1, 0, part, 0);
  example::set(run.parameters.experts.down, 1, 0, 0, 0); // expert 0 is silu(x_0) x_0
  run.forward();
  REQUIRE(close(run.weights(), {{0.75}})); // sigmoid(ln 3), which multiplies the input:
  double const x = 0.75 * std::log(3);
  REQUIRE(run.output()[0][0] == Approx(x * example::sigmoid(x) * x));
  // [/snippet]
}
