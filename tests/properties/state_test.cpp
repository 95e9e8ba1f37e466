// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compare.hpp>
#include <properties/compositions.hpp>

using namespace properties;

TEST_CASE("saved and loaded, a state goes on bit by bit") {
  for (auto const& c : compositions()) {
    auto const machine = c.make({});
    if (machine->state.empty()) continue;
    INFO(c.name);
    auto const trained = [](Machine& m, unsigned seed) {
      auto batch = random_batch(m, 40, seed);
      batch.mode = kokomo::Mode::training;
      return m.run(batch);
    };
    trained(*machine, 1);
    machine->step();
    trained(*machine, 2); // counted, but not yet stepped on: counts are part of the state
    auto const loaded = c.make({});
    loaded->parameters = machine->parameters;
    loaded->state = machine->state;
    machine->step();
    loaded->step();
    REQUIRE(identical(loaded->state, machine->state));
    auto const a = trained(*machine, 3), b = trained(*loaded, 3);
    REQUIRE(identical(b.y, a.y));
    REQUIRE(b.expert == a.expert);
    REQUIRE(identical(loaded->state, machine->state));

    auto const fresh = c.make({});
    double moved = 0;
    for (double bias : machine->state.at("balancer.bias").values) moved += std::abs(bias);
    REQUIRE(moved > 0);
  }
}

TEST_CASE("the biases of loss-free balancing follow the counts of training") {
  Setup setup;
  setup.bias_rate = 0.25f; // a power of two: the update is exact
  for (auto const& c : compositions()) {
    if (c.name != "DeepSeek-V3" && c.name != "LongCat") continue;
    INFO(c.name);
    auto const machine = c.make(setup);
    auto const experts = std::size_t(machine->sizes().experts);
    auto batch = random_batch(*machine, 40);
    batch.mode = kokomo::Mode::training;
    auto const result = machine->run(batch);
    std::vector<double> counts(experts);
    for (index_t e : result.expert) ++counts[std::size_t(e)];
    REQUIRE(machine->state.at("balancer.counts").values == counts);
    machine->step();
    double const mean = 40.0 * 3 / double(experts);
    for (std::size_t e = 0; e < experts; ++e) {
      double const missing = mean - counts[e];
      double const sign = double(missing > 0) - double(missing < 0);
      double const expected = 0.25 * (c.name == "LongCat" ? missing / mean : sign);
      REQUIRE(machine->state.at("balancer.bias").values[e] == Approx(expected).epsilon(1e-6).margin(1e-9));
    }
    REQUIRE(machine->state.at("balancer.counts").values == std::vector<double>(experts, 0.0));
    auto const idle = machine->state;
    machine->step(); // nothing was counted since
    REQUIRE(identical(machine->state, idle));
  }
}

TEST_CASE("training differs from inference in what is declared alone") {
  for (auto const& c : compositions()) {
    INFO(c.name);
    auto const machine = c.make({});
    auto batch = random_batch(*machine, 40);
    auto const before = machine->state;
    auto const inference = machine->run(batch, Pass::forward_and_backward);
    REQUIRE(identical(machine->state, before));
    batch.mode = kokomo::Mode::training;
    auto const training = machine->run(batch, Pass::forward_and_backward);
    if (!before.empty()) REQUIRE_FALSE(identical(machine->state, before));
    REQUIRE(identical(training.y, inference.y) == !c.training_differs);
    REQUIRE(identical(training.dx, inference.dx) == !c.training_differs);
    REQUIRE(identical(training.gradients, inference.gradients) == !c.training_differs);
    REQUIRE(training.loss == inference.loss);
  }
}

TEST_CASE("random choices depend on the step and on nothing else") {
  auto const machine = sparse_mixer({});
  auto batch = random_batch(*machine, 40);
  batch.mode = kokomo::Mode::training;
  batch.step = 7;
  auto const a = machine->run(batch), again = machine->run(batch);
  REQUIRE(identical(a.y, again.y));
  batch.step = 8;
  REQUIRE_FALSE(identical(machine->run(batch).y, a.y));
}

TEST_CASE("the balancing losses take their declared values at perfect balance") {
  for (auto const& c : compositions()) {
    if (c.name != "Switch" && c.name != "NLLB") continue;
    INFO(c.name);
    Setup setup;
    setup.router_hidden = setup.experts;
    auto const machine = c.make(setup);
    // token t prefers expert t mod E: every f_e and every P_e is 1/E, so E sum f P = 1
    std::vector<double> balanced, collapsed;
    for (int t = 0; t < 40; ++t)
      for (int e = 0; e < 8; ++e) {
        balanced.push_back(e == t % 8 ? 1 : 0);
        collapsed.push_back(e == 0 ? 1 : 0);
      }
    double const z = std::log(std::exp(1.0) + 7), z_loss = c.name == "NLLB" ? 1e-3 * z * z : 0;
    // both sums over 40 tokens, in float32
    REQUIRE(machine->run(with_logits(*machine, random_batch(*machine, 40), balanced)).loss ==
            Approx(1e-2 + z_loss).epsilon(1e-5));
    REQUIRE(machine->run(with_logits(*machine, random_batch(*machine, 40), collapsed)).loss ==
            Approx(1e-2 * 8 * std::exp(1.0) / (std::exp(1.0) + 7) + z_loss).epsilon(1e-5));
  }
}
