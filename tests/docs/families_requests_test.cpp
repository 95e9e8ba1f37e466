// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/adaptive_routing.hpp>
#include <kokomo/transform/hidden_columns.hpp>

TEST_CASE("hash_layer") {
  // [snippet:hash_layer]
  using Layer = kokomo::models::HashLayer<>;
  Example<Layer> run({.tokens = 3, .hidden = 4, .experts = 3},
                     {.router = {.selector = {.vocabulary = 5}}, .experts = {.intermediate = 4}});
  for (int id = 0; id < 5; ++id) example::set(run.state.selector.table, (7 * id + 2) % 3, id, 0); // a written hash
  Kokkos::View<kokomo::offset_t*, Layer::Exec> const token_ids("token_ids", 3);
  example::set(token_ids, 4, 0);
  example::set(token_ids, 1, 1);
  example::set(token_ids, 4, 2);
  run.inputs.selector.token_ids = token_ids;
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}, {0}}); // (28 + 2) % 3, (7 + 2) % 3
  example::set(token_ids, 2, 1);
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}, {0}}); // (14 + 2) % 3: the id decides, whatever x
  REQUIRE(close(run.weights(), {{1}, {1}, {1}}));
  // [/snippet]
}

TEST_CASE("glider") {
  // [snippet:glider]
  using Layer = kokomo::models::Glider<>;
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2},
                     {.router = {.scorer = {.second = {.rows = 1}, .scale = 3}, .selector = {.k = 1}},
                      .experts = {.intermediate = 4}});
  auto const& router = run.parameters.router;
  for (int e = 0; e < 2; ++e)
    for (int h = 0; h < 2; ++h) example::set(router.first.weight, e == h, e, h);
  example::set(router.second.table, 0.2, 0, 0); // the request's cosines with the two experts' tasks
  example::set(router.second.table, 0.8, 0, 1);
  run.set_x({{5, 3}, {5, 3}});
  Kokkos::View<kokomo::index_t*, Layer::Exec> const request("request", 2);
  example::set(request, -1, 1); // the second token has no request
  run.inputs.scorer.second.row_of_token = request;
  run.forward();
  // LayerNorm makes (1, -1) of x: own logits of +-1 / sqrt 2. Expert 1 wins from a scale of sqrt 2 / 0.6 = 2.36 on.
  double const own = 1 / std::sqrt(2.0);
  REQUIRE(close(run.logits(), {{own + 0.6, -own + 2.4}, {own, -own}}));
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{1}, {0}});
  // [/snippet]
}

TEST_CASE("task_routing") {
  // [snippet:task_routing]
  using Layer = kokomo::models::TaskRouting<>;
  Example<Layer> run({.tokens = 2, .hidden = 3, .experts = 2},
                     {.router = {.scorer = {.rows = 2}, .selector = {.k = 2}}, .experts = {.intermediate = 4}});
  example::fill(run.parameters.router.table, 0);
  example::set(run.parameters.router.table, std::log(3.0), 1, 0);
  Kokkos::View<kokomo::index_t*, Layer::Exec> const task("task", 2);
  example::set(task, 1, 1); // the second token is of the second task
  run.inputs.scorer.row_of_token = task;
  run.forward();
  // sigmoids 1/2, 1/2 and 3/4, 1/2, over their sums
  REQUIRE(close(run.weights(), {{0.5, 0.5}, {0.6, 0.4}}));
  // [/snippet]
}

TEST_CASE("union_of_experts") {
  // [snippet:union_of_experts]
  using Layer = kokomo::models::UnionOfExperts<float, Kokkos::DefaultExecutionSpace, kokomo::SwiGluExperts>;
  auto const policies = [](int k, kokomo::index_t width) {
    return Layer::Policies{
        .router = {.scorer = {.tokens_per_sequence = 2, .pooling = kokomo::Pooling::flatten}, .selector = {.k = k}},
        .experts = {.intermediate = width}};
  };
  Table<double> const x{{5, 1}, {2, 4}, {0, 1}, {3, 2}}; // two sequences of two tokens
  Example<Layer> dense({.tokens = 4, .hidden = 2, .experts = 1}, policies(1, 8));
  Example<Layer> all({.tokens = 4, .hidden = 2, .experts = 4}, policies(4, 2));
  auto const parts = kokomo::equal_parts(8, 4);
  for (kokomo::index_t e = 0; e < 4; ++e)
    kokomo::copy_columns<float>(all.exec, dense.layer.policies().experts, dense.parameters.experts,
                                all.layer.policies().experts, all.parameters.experts, e, parts[std::size_t(e)]);
  dense.set_x(x), all.set_logits(x); // as many logits as a flattened sequence has numbers, and these are the logits
  dense.forward(), all.forward();
  double difference = 0, size = 0;
  for (std::size_t t = 0; t < 4; ++t)
    for (std::size_t h = 0; h < 2; ++h) {
      difference = std::max(difference, std::abs(all.output()[t][h] - dense.output()[t][h]));
      size = std::max(size, std::abs(dense.output()[t][h]));
    }
  REQUIRE(difference <= 1e-5 * size); // all parts are the network

  Example<Layer> best({.tokens = 4, .hidden = 2, .experts = 4}, policies(2, 2));
  best.parameters = all.parameters;
  best.set_x(x);
  best.forward();
  REQUIRE(best.chosen() == Table<kokomo::index_t>{{0, 3}, {0, 3}, {2, 3}, {2, 3}}); // one choice a sequence
  REQUIRE(close(best.weights(), {{1, 1}, {1, 1}, {1, 1}, {1, 1}}));
  // [/snippet]
}

TEST_CASE("nano_vla") {
  // [snippet:nano_vla]
  using Layer = kokomo::models::NanoVla<>;
  Example<Layer> run(
      {.tokens = 4, .hidden = 2, .experts = 2},
      {.router = {.scorer = {.tokens_per_sequence = 2}, .selector = {.tau = 0.6f}}, .experts = {.intermediate = 4}});
  run.set_logits({{0, 2}, {0, 0}, {1, 1.4}, {0, 0}}); // means (0, 1) and (0.5, 0.7)
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{1}, {1}, {0}, {0}}); // it wins with 0.73, and with 0.55
  REQUIRE(close(run.weights(), {{1}, {1}, {1}, {1}}));
  // [/snippet]
}

TEST_CASE("nano_vla_training") {
  // [snippet:nano_vla_training]
  using Layer = kokomo::models::NanoVlaTraining<>;
  double const wins = kokomo::win_probability(8, 4, 5, 7); // heavy 7 of 10, light 4 of 10, uniform priors: 0.90
  kokomo::OwnedVector<double, Layer::Exec> const target("target", 2);
  example::set(target, wins, 0);
  example::set(target, -1, 1); // one target a request is enough
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2}, {.router = {.scorer = {.tokens_per_sequence = 2}},
                                                                .balancer = {.target = target},
                                                                .experts = {.intermediate = 4}});
  run.set_logits({{0, 2 * std::log(2.0)}, {0, 0}}); // a mean of (0, ln 2): two chances in three
  run.forward(kokomo::Mode::training);
  REQUIRE(run.loss() == Approx(-wins * std::log(2.0 / 3) - (1 - wins) * std::log(1.0 / 3)));
  // [/snippet]
}
