// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Snippets of selectors and scorers that need no experts to be seen at work.
#include <support/routing_fixture.hpp>
#include <support/scorer_fixture.hpp>

#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/models/product_keys.hpp>
#include <kokomo/router/activation_norm_scorer.hpp>
#include <kokomo/router/agreement.hpp>
#include <kokomo/router/batch_norm_key_scorer.hpp>
#include <kokomo/router/cascade.hpp>
#include <kokomo/router/cosine_scorer.hpp>
#include <kokomo/router/escalate.hpp>
#include <kokomo/router/grid_scorer.hpp>
#include <kokomo/router/gumbel_top_k.hpp>
#include <kokomo/router/hash.hpp>
#include <kokomo/router/key_scorer.hpp>
#include <kokomo/router/layer_norm_scorer.hpp>
#include <kokomo/router/no_scorer.hpp>
#include <kokomo/router/noisy_scorer.hpp>
#include <kokomo/router/pair_top_k.hpp>
#include <kokomo/router/percentile.hpp>
#include <kokomo/router/pooled_scorer.hpp>
#include <kokomo/router/positive.hpp>
#include <kokomo/router/sum_scorer.hpp>
#include <kokomo/router/table_scorer.hpp>
#include <kokomo/router/top_p.hpp>
#include <kokomo/router/two_choice_hash.hpp>

using kokomo::test::RoutingFixture;
using kokomo::test::ScorerFixture;

namespace {

using Chosen = std::vector<std::vector<int>>;

TEST_CASE("no_scorer") {
  // [snippet:no_scorer]
  // A hash layer: a table says the expert of a token id, its weight is one.
  using Layer = kokomo::Layer<kokomo::Router<kokomo::NoScorer, kokomo::HashTable>, kokomo::ConstantGate>;
  Layer const layer({.tokens = 4, .hidden = 8, .experts = 4},
                    {.router = {.selector = {.vocabulary = 100}}, .experts = {.intermediate = 6}});
  std::vector<std::string> names;
  layer.describe_parameters().for_each([&](std::string const& name, auto const&) { names.push_back(name); });
  REQUIRE(names == std::vector<std::string>{"experts.gate_up", "experts.down"}); // no router
  // [/snippet]
}

TEST_CASE("top_p") {
  // [snippet:top_p]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopP>, kokomo::SoftmaxGate>;
  Layer::Policies policies;
  policies.router.selector = {.p = 0.7f, .at_most = 3};

  RoutingFixture<> run({{4, 0, 0, 0},   // 0.95 of the mass on one expert
                        {1, 1, 1, 1},   // a quarter each: three reach 0.7
                        {2, 2, 0, 0}}); // 0.44 + 0.44
  run.select<kokomo::SoftmaxScore>(policies.router.selector);
  run.weigh(policies.gate);
  REQUIRE(run.chosen() == Chosen{{0}, {0, 1, 2}, {0, 1}});
  REQUIRE(run.weights()[1] == std::vector<double>{0.25, 0.25, 0.25}); // as they are: their sum is the mass
  // [/snippet]
}

TEST_CASE("positive") {
  // [snippet:positive]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::Positive>, kokomo::ReluGate>;
  Layer::Policies policies;

  RoutingFixture<> run({{1, -1, 2}, {-1, -2, -3}, {3, 3, 3}});
  run.select<kokomo::ReluScore>(policies.router.selector);
  run.weigh(policies.gate);
  REQUIRE(run.chosen() == Chosen{{2, 0}, {}, {0, 1, 2}});
  REQUIRE(run.weights()[0] == std::vector<double>{2, 1});
  // [/snippet]
}

TEST_CASE("gumbel_top_k") {
  // [snippet:gumbel_top_k]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::GumbelTopK>, kokomo::ConstantGate>;
  Layer::Policies policies;
  policies.router.selector = {.k = 2, .seed = 1};

  RoutingFixture<> run({{0.5, 2, 1, -0.5}});
  run.select<kokomo::IdentityScore>(policies.router.selector);
  REQUIRE(run.chosen() == Chosen{{1, 2}}); // inference: the two best
  run.routing.mode = kokomo::Mode::training;
  run.routing.step = 7; // another draw a step
  run.select<kokomo::IdentityScore>(policies.router.selector);

  kokomo::OwnedVector<double, RoutingFixture<>::Exec> log_q("log_q", 1);
  kokomo::draw_log_probability<double>(run.exec, run.routing, run.assignment, log_q);
  run.exec.fence();
  REQUIRE(kokomo::test::to_host(log_q)[0] < 0);
  // [/snippet]
}

TEST_CASE("noisy_scorer") {
  // [snippet:noisy_scorer]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::NoisyScorer, kokomo::TopK<2>>>;
  Layer::Policies policies;
  policies.router.scorer = {.seed = 3};

  // 4 tokens of width 5, 3 experts: 9 columns, noisy, clean and deviation
  ScorerFixture<kokomo::NoisyScorer> run(policies.router.scorer, 4, 5, 3);
  auto const z = run.forward();
  REQUIRE(z[0].size() == 9);
  REQUIRE(z[0][0] == z[0][3]); // inference: no noise
  run.inputs.mode = kokomo::Mode::training;
  REQUIRE(run.forward()[0][0] != z[0][3]);
  // [/snippet]
}

TEST_CASE("cosine_scorer") {
  // [snippet:cosine_scorer]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::CosineScorer, kokomo::TopK<2>>>;
  Layer::Policies policies;
  policies.router.scorer = {.scale = 10}; // temperature 0.1

  ScorerFixture<kokomo::CosineScorer> run(policies.router.scorer, 4, 5, 3);
  for (auto const& token : run.forward())
    for (double const z : token) REQUIRE(std::abs(z) <= 10);
  // [/snippet]
}

TEST_CASE("batch_norm_key_scorer") {
  // [snippet:batch_norm_key_scorer]
  // 4 tokens of width 5, 9 experts: 2 heads of 3 + 3 logits
  ScorerFixture<kokomo::BatchNormKeyScorer> run({.keys = {.heads = 2, .key_size = 4}}, 4, 5, 9);
  Kokkos::deep_copy(run.parameters.norm_weight, 1.0);
  Kokkos::deep_copy(run.state.variance, 1.0);
  run.inputs.mode = kokomo::Mode::training; // moves the running moments, and goes by the batch's
  auto const z = run.forward();
  REQUIRE(kokomo::test::norm(kokomo::test::to_host(run.state.mean)) > 0);
  run.inputs.mode = kokomo::Mode::inference; // goes by the running ones
  REQUIRE(run.forward() != z);
  // [/snippet]
}

TEST_CASE("key_scorer") {
  // [snippet:key_scorer]
  kokomo::models::Peer<>::Policies policies;
  policies.router.scorer = {.heads = 2, .key_size = 4};

  // 4 tokens of width 5, 9 experts: 2 heads of 3 + 3 logits
  ScorerFixture<kokomo::KeyScorer> run(policies.router.scorer, 4, 5, 9);
  REQUIRE(run.forward()[0].size() == 12);
  // [/snippet]
}

TEST_CASE("grid_scorer") {
  // [snippet:grid_scorer]
  kokomo::models::OmniMoe<>::Policies policies;
  policies.router.scorer = {.rows = 2};

  ScorerFixture<kokomo::GridScorer> run(policies.router.scorer, 4, 5, 6); // 6 experts: 2 rows, 3 columns
  double sum = 0;
  auto const z = run.forward()[0];
  for (int row = 0; row < 2; ++row)
    for (int column = 0; column < 3; ++column) sum += std::exp(z[row] + z[2 + column]);
  REQUIRE(std::abs(sum - 1) < 1e-12); // a distribution over the experts
  // [/snippet]
}

TEST_CASE("pair_top_k") {
  // [snippet:pair_top_k]
  //                       rows    columns of a 2 x 3 grid: expert 3 i + j
  RoutingFixture<> run({{1, 0.5, 0, 3, 2}});
  run.sizes.experts = 6;
  run.select<kokomo::IdentityScore>(kokomo::PairTopK{.k = 3, .rows = 2});
  REQUIRE(run.chosen() == Chosen{{1, 4, 2}}); // 1 + 3, 0.5 + 3, 1 + 2
  // [/snippet]
}

TEST_CASE("percentile") {
  // [snippet:percentile]
  RoutingFixture<> run({{4, 3, 2, 1}, {0, 0.5, -1, -2}}); // median of the batch: 0.75
  run.select<kokomo::IdentityScore>(kokomo::Percentile<kokomo::PercentileScope::batch>{.tau = 0.5f});
  REQUIRE(run.chosen() == Chosen{{0, 1, 2, 3}, {1}}); // at least one
  run.select<kokomo::IdentityScore>(kokomo::Percentile<kokomo::PercentileScope::token>{.tau = 0.5f});
  REQUIRE(run.chosen() == Chosen{{0, 1}, {1, 0}}); // of its own logits: two of four, always
  // [/snippet]
}

TEST_CASE("cascade") {
  // [snippet:cascade]
  RoutingFixture<> run({{3, 0, 0}, {1, 0.9, 0}}); // probabilities 0.91 0.05 0.05 and 0.44 0.40 0.16
  run.select<kokomo::SoftmaxScore>(kokomo::Cascade{.few = 1, .many = 2, .threshold = 0.3f});
  REQUIRE(run.chosen() == Chosen{{0}, {0, 1}});
  // [/snippet]
}

TEST_CASE("agreement") {
  // [snippet:agreement]
  RoutingFixture<> run({{90, 0, 0}, {0, 0, 0}});
  run.select<kokomo::IdentityScore>(kokomo::Agreement{.probes = 8, .noise = 1, .seed = 1});
  REQUIRE(run.chosen()[0] == std::vector<int>{0}); // every probe says so
  REQUIRE(run.chosen()[1].size() > 1);
  // [/snippet]
}

TEST_CASE("escalate") {
  // [snippet:escalate]
  RoutingFixture<> run({{0, 2}, {0, 0.2}}); // probability that the heavy expert wins: 0.88, 0.55
  run.select<kokomo::IdentityScore>(kokomo::Escalate{.tau = 0.6f});
  REQUIRE(run.chosen() == Chosen{{1}, {0}});
  // what the router is fitted to: 7 of 10 successes against 4 of 10, from a uniform prior
  REQUIRE(std::abs(kokomo::win_probability(8, 4, 5, 7) - 0.90081) < 1e-5);
  // [/snippet]
}

TEST_CASE("pooled_scorer") {
  // [snippet:pooled_scorer]
  ScorerFixture<kokomo::PooledScorer<>> run({.tokens_per_sequence = 3}, 6, 5, 4); // two sequences
  auto const z = run.forward();
  REQUIRE(z[0] == z[2]);
  REQUIRE(z[2] != z[3]);
  // [/snippet]
}

TEST_CASE("table_scorer") {
  // [snippet:table_scorer]
  ScorerFixture<kokomo::TableScorer> run({.rows = 2}, 3, 5, 4);
  kokomo::OwnedVector<kokomo::index_t, Kokkos::DefaultExecutionSpace> task("task", 3);
  Kokkos::deep_copy(task, 1);
  run.inputs.row_of_token = task;
  auto const z = run.forward();
  REQUIRE(z[0] == z[2]); // whatever the tokens are
  // [/snippet]
}

TEST_CASE("layer_norm_scorer") {
  // [snippet:layer_norm_scorer]
  ScorerFixture<kokomo::LayerNormScorer> run({}, 4, 9, 3);
  kokomo::test::to_device(std::vector<double>(4 * 9, 2.5), run.x); // no token differs from its own mean
  auto const z = run.forward();
  REQUIRE(z[0] == std::vector<double>(3));
  // [/snippet]
}

TEST_CASE("sum_scorer") {
  // [snippet:sum_scorer]
  // Glider: a token's own logits, plus 3 times those of its request
  using Scorer = kokomo::SumScorer<kokomo::LayerNormScorer, kokomo::TableScorer>;
  ScorerFixture<Scorer> run({.second = {.rows = 2}, .scale = 3}, 4, 5, 3);
  kokomo::OwnedVector<kokomo::index_t, Kokkos::DefaultExecutionSpace> request("request", 4);
  run.inputs.second.row_of_token = request; // all four belong to request 0
  kokomo::test::to_device(std::vector<double>{0, 0, 1, 0, 0, 0}, run.parameters.second.table);
  auto const with = run.forward();
  run.scorer.scale = 0;
  REQUIRE(std::abs(with[0][2] - run.forward()[0][2] - 3) < 1e-12);
  // [/snippet]
}

TEST_CASE("two_choice_hash") {
  // [snippet:two_choice_hash]
  RoutingFixture<> run({{0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}});
  kokomo::OwnedVector<kokomo::offset_t, Kokkos::DefaultExecutionSpace> ids("ids", 4);
  Kokkos::deep_copy(ids, 12345); // one id four times: its two experts take turns
  run.select<kokomo::IdentityScore>(kokomo::TwoChoiceHash{.seed = 1}, kokomo::Nothing{}, {.token_ids = ids});
  auto const chosen = run.chosen();
  REQUIRE(chosen[0] != chosen[1]);
  REQUIRE(chosen[0] == chosen[2]);
  // a table for HashTable, balanced by how often ids occur
  REQUIRE(kokomo::balanced_hash_table({5, 1, 3, 2}, 2) == std::vector<kokomo::index_t>{0, 0, 1, 1});
  // [/snippet]
}

TEST_CASE("activation_norm_scorer") {
  // [snippet:activation_norm_scorer]
  ScorerFixture<kokomo::ActivationNormScorer> run({.width = 2}, 4, 5, 3);
  auto const z = run.forward();
  auto const a = kokomo::test::to_host(run.saved().activations); // [4, 3 experts of width 2]
  REQUIRE(std::abs(z[0][1] - std::hypot(a[2], a[3])) < 1e-14);
  // [/snippet]
}

} // namespace
