// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/gate/sparse_mixer.hpp>
#include <kokomo/router/given.hpp>
#include <kokomo/router/group_limited_top_k.hpp>
#include <kokomo/router/hash.hpp>
#include <kokomo/router/linear_scorer.hpp>
#include <kokomo/router/mlp_scorer.hpp>
#include <kokomo/router/normalized_scorer.hpp>
#include <kokomo/router/product_key_scorer.hpp>
#include <kokomo/router/sparse_mixer.hpp>
#include <kokomo/router/top_2.hpp>
#include <kokomo/router/top_k.hpp>

TEST_CASE("linear_scorer") {
  // [snippet:linear_scorer]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>>;
  Example<Layer> run({.tokens = 1, .hidden = 2, .experts = 2},
                     {.router = {.scorer = {.bias = true, .softcap = 5}}, .experts = {.intermediate = 4}});
  run.set_logits({{3, -1}});                        // weight = identity, x = (3, -1)
  example::set(run.parameters.router.bias, 0.5, 0); // bias = (0.5, 0)
  example::set(run.parameters.router.bias, 0, 1);
  run.forward();
  // z = 5 tanh((W x + b) / 5)
  REQUIRE(close(run.logits(), {{5 * std::tanh(3.5 / 5), 5 * std::tanh(-1.0 / 5)}}));
  // [/snippet]
}

TEST_CASE("normalized_scorer") {
  // [snippet:normalized_scorer]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::NormalizedScorer, kokomo::TopK<1>>>;
  Example<Layer> run({.tokens = 2, .hidden = 3, .experts = 4},
                     {.router = {.scorer = {.epsilon = 0}}, .experts = {.intermediate = 4}});
  run.set_x({{0.2, -0.4, 0.6}, {2, -4, 6}}); // the second token is ten times the first
  run.forward();
  auto const logits = run.logits();
  REQUIRE(close({logits[0]}, {logits[1]}));
  REQUIRE(run.chosen()[0] == run.chosen()[1]);
  // [/snippet]
}

TEST_CASE("mlp_scorer") {
  // [snippet:mlp_scorer]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::MlpScorer, kokomo::TopK<1>>>;
  kokomo::Shape const shape{.tokens = 3, .hidden = 6, .experts = 4};
  Example<Layer> below(shape, {.router = {.scorer = {.state_size = 5}}, .experts = {.intermediate = 4}});
  Example<Layer> above(
      shape, {.router = {.scorer = {.state_size = 5, .previous_states = true}}, .experts = {.intermediate = 4}});
  below.forward();
  above.inputs.scorer.previous_states = below.layer.saved(below.tape).scorer.states; // handed on, layer to layer
  above.forward();
  REQUIRE(above.layer.saved(above.tape).scorer.states.extent(1) == 5);
  // [/snippet]
}

TEST_CASE("product_key_scorer") {
  // [snippet:product_key_scorer]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::ProductKeyScorer, kokomo::TopK<2, kokomo::RankByLogits>>,
                              kokomo::SelectedSoftmaxGate, kokomo::NoBalancer,
                              kokomo::FeedForwardExperts<kokomo::Plain<kokomo::Silu>>>;
  // 9 experts of one neuron from 3 + 3 logits: expert 3 i + j scores a_i + b_j
  Example<Layer> run({.tokens = 4, .hidden = 6, .experts = 9}, {.experts = {.intermediate = 1}});
  run.forward();
  REQUIRE(run.parameters.router.weight.extent(0) == 6);
  auto const z = run.logits()[0];
  REQUIRE(std::abs((z[0] - z[1]) - (z[3] - z[4])) < 1e-5); // b_0 - b_1, whatever i
  // [/snippet]
}

TEST_CASE("top_k") {
  // [snippet:top_k]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>>; // k at run time; TopK<2> fixes it
  Example<Layer> run({.tokens = 3, .hidden = 4, .experts = 4},
                     {.router = {.selector = {.k = 2}}, .experts = {.intermediate = 4}});
  run.set_logits({{0, 3, 1, 2},     // the two best, best first
                  {5, 5, 5, 5},     // ties: the smaller expert index
                  {NAN, 0, 0, 0}}); // x holds a NaN, so W x does: a defined choice, and counted
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{1, 3}, {0, 1}, {0, 1}});
  REQUIRE(run.status().non_finite_logits == 4);
  // [/snippet]
}

TEST_CASE("group_limited_top_k") {
  // [snippet:group_limited_top_k]
  using Layer =
      kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::GroupLimitedTopK<>>, kokomo::NormalizedSigmoidGate>;
  Example<Layer> run(
      {.tokens = 1, .hidden = 8, .experts = 8},
      {.router = {.selector = {.k = 3, .groups = 4, .allowed_groups = 2}}, .experts = {.intermediate = 4}});
  //                  group 0   group 1   group 2   group 3
  run.set_logits({{4, -9, 1, 2, -9, -9, 3, 0}});
  run.forward();
  // By the sum of their two best sigmoids groups 1 and 3 win; expert 0, the best of all, stands in group 0.
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{6, 3, 2}});
  // [/snippet]
}

TEST_CASE("hash") {
  // [snippet:hash]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::HashTable>, kokomo::ConstantGate>;
  Example<Layer> run({.tokens = 4, .hidden = 8, .experts = 3},
                     {.router = {.selector = {.k = 1, .vocabulary = 3}}, .experts = {.intermediate = 4}});
  for (int id = 0; id < 3; ++id) example::set(run.state.selector.table, 2 - id, id, 0); // id 0 -> expert 2, ...
  Kokkos::View<kokomo::offset_t*, Kokkos::DefaultExecutionSpace> token_ids("token_ids", 4);
  for (int t = 0; t < 4; ++t) example::set(token_ids, t, t); // 0, 1, 2, and 3, which the table does not have
  run.inputs.selector.token_ids = token_ids;
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{2}, {1}, {0}, {}});
  REQUIRE(run.status().invalid_ids == 1);
  // [/snippet]
}

TEST_CASE("given") {
  // [snippet:given]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::Given>, kokomo::SelectedSoftmaxGate>;
  Example<Layer> run({.tokens = 2, .hidden = 4, .experts = 4},
                     {.router = {.selector = {.k = 2}}, .experts = {.intermediate = 4}});
  Kokkos::View<kokomo::index_t**, Kokkos::LayoutRight, Kokkos::DefaultExecutionSpace> experts("experts", 2, 2);
  example::set(experts, 3, 0, 0), example::set(experts, 0, 0, 1);            // token 0: experts 3 and 0
  example::set(experts, 1, 1, 0), example::set(experts, kokomo::none, 1, 1); // token 1: expert 1 alone
  run.inputs.selector.experts = experts;
  run.set_logits({{1, 9, 9, 1}, {1, 1, 9, 9}}); // they do not choose, but the gate weighs by them
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{3, 0}, {1}});
  REQUIRE(close(run.weights(), {{0.5, 0.5}, {1, 0}}));
  // [/snippet]
}

TEST_CASE("top_2") {
  // [snippet:top_2]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::Top2>, kokomo::SoftmaxGate>;
  Example<Layer> run(
      {.tokens = 2, .hidden = 3, .experts = 3},
      {.router = {.selector = {.second = kokomo::SecondExpert::random, .seed = 7}}, .experts = {.intermediate = 4}});
  run.set_logits({{2, 1.9, -9},     // p2 = 0.475: the second is kept with probability 0.95
                  {30, -30, -31}}); // p2 = 9e-27: never
  run.forward();
  auto const chosen = run.chosen();
  REQUIRE(chosen[0][0] == 0);
  REQUIRE(chosen[1] == std::vector<kokomo::index_t>{0});
  run.forward(); // the same (seed, step, token): the same draw
  REQUIRE(run.chosen() == chosen);
  // [/snippet]
}

TEST_CASE("sparse_mixer router") {
  // [snippet:sparse_mixer]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::SparseMixer>, kokomo::SparseMixerGate>;
  Example<Layer> run({.tokens = 1, .hidden = 4, .experts = 4}, {.router = {.selector = {.epsilon = 0.1f, .seed = 1}},
                                                                .gate = {.epsilon = 0.1f},
                                                                .experts = {.intermediate = 4}});
  run.set_logits({{2, 1.9, 1, -1}}); // within 2 epsilon = 0.2 of the best: experts 0 and 1
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}}); // inference: the argmax, twice
  run.forward(kokomo::Mode::training);
  auto const sampled = run.chosen()[0];
  REQUIRE(sampled[0] <= 1); // training: a sample of those that the pick sees
  REQUIRE(sampled[0] != sampled[1]);
  // [/snippet]
}
