// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compare.hpp>
#include <properties/compositions.hpp>

#include <limits>

using namespace properties;

TEST_CASE("a batch of no tokens leaves zero gradients and nothing else") {
  for (auto const& c : compositions()) {
    INFO(c.name);
    auto const machine = c.make({});
    auto batch = random_batch(*machine, 0);
    batch.mode = kokomo::Mode::training;
    auto const before = machine->state;
    auto const result = machine->run(batch, Pass::forward_and_backward);
    check_assignment(result, 0, machine->sizes());
    REQUIRE(result.y.empty());
    REQUIRE(result.loss == 0);
    REQUIRE(identical(machine->state, before));
    for (auto const& [name, gradient] : result.gradients) {
      INFO(name);
      for (double g : gradient.values) REQUIRE(g == 0);
    }
  }
}

TEST_CASE("a layer that is planned for no tokens") {
  Setup setup;
  setup.tokens = 0;
  for (auto const& c : compositions()) {
    INFO(c.name);
    auto const machine = c.make(setup);
    check_assignment(machine->run(random_batch(*machine, 0), Pass::forward_and_backward), 0, machine->sizes());
  }
}

TEST_CASE("one place for everybody: all but one are dropped") {
  Setup setup;
  setup.router_hidden = setup.experts;
  auto const machine = one_place(setup);
  auto const width = machine->sizes().hidden;
  std::vector<double> logits;
  for (int t = 0; t < 40; ++t)
    for (int e = 0; e < 8; ++e) logits.push_back(e == 5 ? 2 : 0);
  auto batch = with_logits(*machine, random_batch(*machine, 40), logits);
  batch.mode = kokomo::Mode::training;
  auto const result = machine->run(batch, Pass::forward_and_backward);
  check_assignment(result, 40, machine->sizes());
  REQUIRE(result.status.dropped == 39);
  REQUIRE(result.status.tokens_without_expert == 39);
  for (std::size_t t = 0; t < 40; ++t) {
    double norm = 0;
    for (double v : rows_of(result.y, {t}, width)) norm += std::abs(v);
    REQUIRE((norm > 0) == (t == 0));
    for (double v : rows_of(result.dx, {t}, width)) REQUIRE((t == 0 || v == 0));
  }
  // balancers see what was chosen, not what was served
  REQUIRE(machine->state.at("balancer.counts").values == std::vector<double>{0, 0, 0, 0, 0, 40, 0, 0});
}

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

/// Rows of logits that no router should write, and how many entries of each are not finite.
struct Bad {
  offset_t token;
  double first, rest; ///< of the first two experts, and of all others
  bool operator==(offset_t t) const { return t == token; }
};
constexpr Bad bad_rows[] = {{1, nan, nan},  {4, nan, 0.5},   {7, inf, 0.25}, {10, -inf, -inf}, {13, -inf, 1.0},
                            {16, inf, inf}, {19, nan, -inf}, {22, 0.5, nan}, {23, inf, nan}};

} // namespace

TEST_CASE("logits that are not finite index nothing out of range, are counted and stay among themselves") {
  for (auto const& c : compositions()) {
    INFO(c.name);
    Setup setup;
    setup.router_hidden = c.make({})->sizes().columns;
    auto const columns = setup.router_hidden;
    auto const machine = c.make(setup), clean_machine = c.make(setup);
    auto const width = machine->sizes().hidden;
    auto logits = random_numbers(std::size_t(24 * columns), 12);
    auto const clean =
        clean_machine->run(with_logits(*clean_machine, random_batch(*machine, 24), logits), Pass::forward_and_backward);
    // the router's weights are the identity, and 0 * inf is NaN: any of these makes all logits of its row NaN
    auto batch = with_logits(*machine, random_batch(*machine, 24), logits);
    offset_t expected = 0;
    for (Bad const& bad : bad_rows) {
      for (offset_t e = 0; e < columns; ++e)
        batch.router_input[std::size_t(bad.token * columns + e)] = e < 2 ? bad.first : bad.rest;
      if (!std::isfinite(bad.first) || !std::isfinite(bad.rest)) expected += columns;
    }
    for (auto mode : {kokomo::Mode::inference, kokomo::Mode::training}) {
      if (c.training_differs && mode == kokomo::Mode::training) continue;
      batch.mode = mode;
      auto const result = machine->run(batch, Pass::forward_and_backward);
      REQUIRE(result.guards_intact);
      REQUIRE(result.status.non_finite_logits == expected);
      for (std::size_t t = 0; t < 24; ++t) {
        if (std::find(std::begin(bad_rows), std::end(bad_rows), offset_t(t)) != std::end(bad_rows)) continue;
        REQUIRE(choices(result, t) == choices(clean, t));
        if (c.competes) continue; // who is served may change
        REQUIRE(identical(rows_of(result.y, {t}, width), rows_of(clean.y, {t}, width)));
        REQUIRE(identical(rows_of(result.dx, {t}, width), rows_of(clean.dx, {t}, width)));
        REQUIRE(identical(rows_of(result.d_router_input, {t}, columns), rows_of(clean.d_router_input, {t}, columns)));
      }
    }
  }
}
