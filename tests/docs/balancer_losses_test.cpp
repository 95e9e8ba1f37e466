// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/budget_loss.hpp>
#include <kokomo/balancer/coverage_then_confidence.hpp>
#include <kokomo/balancer/entropy_loss.hpp>
#include <kokomo/balancer/importance_loss.hpp>
#include <kokomo/balancer/pooled_loss.hpp>
#include <kokomo/balancer/published_losses.hpp>
#include <kokomo/balancer/switch_loss.hpp>

// loss_of(balancer, batch) is what a layer calls: top-k of the batch's logits, then the balancer's `observe`.
using kokomo::test::Exec;
using kokomo::test::fixture_of;
using kokomo::test::loss_of;
using Logits = kokomo::test::Rows;

TEST_CASE("switch_loss") {
  // [snippet:switch_loss]
  // Counts what the layer chose, in two groups of two experts each; P from sigmoids.
  using Loss = kokomo::SwitchLoss<kokomo::Chosen, kokomo::NormalizedMass<kokomo::SigmoidScore>>;
  Loss const loss{.coefficient = 1, .top_k = 1, .groups = {.count = 2}};
  Logits const even{{4, 0, 0, 0}, {0, 4, 0, 0}, {0, 0, 4, 0}, {0, 0, 0, 4}};
  Logits const uneven{{4, 0, 0, 0}, {0, 4, 0, 0}, {4, 0, 0, 0}, {0, 4, 0, 0}}; // all in the first group
  REQUIRE(loss_of(loss, {.logits = even, .k = 1}) == Approx(1));
  double const s = 1 / (1 + std::exp(-4.0)); // and three halves beside it
  REQUIRE(loss_of(loss, {.logits = uneven, .k = 1}) == Approx(2 * (s + 0.5) / (s + 1.5)));
  // [/snippet]
}

TEST_CASE("pooled_loss") {
  // [snippet:pooled_loss]
  Exec const exec;
  kokomo::PooledLoss<Exec> const loss{.coefficient = 1, .top_k = 1, .pool = kokomo::LossPool<Exec>(exec, 2)};
  kokomo::OwnedVector<double, Exec> value("value", 1);
  loss.pool.reset(exec);
  loss_of(loss, {.logits = {{40, 0}, {40, 0}}}); // one layer sends all to expert 0: alone its loss is 2
  loss_of(loss, {.logits = {{0, 40}, {0, 40}}}); // the next one all to expert 1
  loss.value(exec, value);
  exec.fence();
  REQUIRE(kokomo::test::to_host(value)[0] == Approx(1)); // together they look balanced
  // [/snippet]
}

TEST_CASE("published_losses") {
  // [snippet:published_losses]
  // DeepSeek-V3: loss-free biases and a small loss of each sequence.
  constexpr auto sequence = kokomo::deepseek_v3_sequence_loss(1e-4f, 2, /*tokens_per_sequence*/ 3);
  Logits const balanced{{9, 9, 0}, {0, 9, 9}, {9, 0, 9}};
  REQUIRE(loss_of(sequence, {.logits = balanced, .k = 2}) == Approx(1e-4)); // at perfect balance 1
  // The same batch, the same k: other names, other scales.
  REQUIRE(loss_of(kokomo::mesh_loss(1), {.logits = balanced, .k = 2}) == Approx(1));
  REQUIRE(loss_of(kokomo::transformers_loss(1, 2), {.logits = balanced, .k = 2}) == Approx(2));
  REQUIRE(loss_of(kokomo::gshard_paper_loss(1, 3), {.logits = balanced, .k = 2}) == Approx(1 / 9.0));
  // [/snippet]
}

TEST_CASE("entropy_loss") {
  // [snippet:entropy_loss]
  // Top-p routing: balance, and a price on flat routing.
  kokomo::Balancers<kokomo::SwitchLoss<kokomo::Chosen>, kokomo::EntropyLoss> const balancer{
      {kokomo::top_p_loss(1e-2f), {.coefficient = 1e-4f}}};
  REQUIRE(std::get<1>(balancer.parts).coefficient > 0);
  REQUIRE(loss_of(kokomo::EntropyLoss{.coefficient = 1}, {.logits = {{0, 0, 0, 0}}}) == Approx(std::log(4.0)));
  REQUIRE(loss_of(kokomo::EntropyLoss{.coefficient = -1}, {.logits = {{0, 0, 0, 0}}}) == Approx(-std::log(4.0)));
  // [/snippet]
}

TEST_CASE("importance_loss") {
  // [snippet:importance_loss]
  kokomo::ImportanceLoss<> const loss{.coefficient = 1};
  REQUIRE(loss_of(loss, {.logits = {{1, 0}, {0, 1}}}) == Approx(0).margin(1e-9));
  REQUIRE(loss_of(loss, {.logits = {{1, 0}, {1, 0}}}) == Approx(1)); // importance (2, 0): variance 1, mean 1
  // [/snippet]
}

TEST_CASE("coverage_then_confidence") {
  // [snippet:coverage_then_confidence]
  kokomo::CoverageThenConfidence const policy{.coverage = 1, .threshold = 0.5f, .decay = 0, .window = 1, .ramp = 0};
  auto routing = fixture_of({.logits = {{40, 0}, {0, 40}}}); // sure, and even: both losses are zero
  auto const state = routing.state_of(policy);
  REQUIRE(routing.observe(policy, state, routing.saved_of(policy)) == Approx(0).margin(1e-9));
  policy.step<double>(routing.exec, state); // the entropy is below 0.5: the second stage
  routing.exec.fence();
  REQUIRE(kokomo::test::to_host(state.trigger)[0] == 1);
  // [/snippet]
}

TEST_CASE("budget_loss") {
  // [snippet:budget_loss]
  Exec const exec;
  kokomo::BudgetLoss<Exec> const loss{.coefficient = 1, .target = 0.5f, .budget = kokomo::Budget<Exec>(exec, 2)};
  exec.fence();
  kokomo::test::to_device(std::vector<double>{1, 0}, loss.budget.cost); // a big and a small expert
  kokomo::OwnedVector<double, Exec> value("value", 1);
  loss.budget.reset(exec);
  loss_of(loss, {.logits = {{40, 0}}}); // one layer takes the big one,
  loss_of(loss, {.logits = {{0, 40}}}); // the next the small one: half of the layers, as budgeted
  loss.value(exec, value);
  exec.fence();
  REQUIRE(kokomo::test::to_host(value)[0] == Approx(0).margin(1e-9));
  // [/snippet]
}
