// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compare.hpp>
#include <properties/compositions.hpp>

/// What one token brings does not depend on the company it keeps.

using namespace properties;

namespace {

Composition const& composition(std::string const& name) {
  for (auto const& c : compositions())
    if (c.name == name) return c;
  throw std::logic_error(name);
}

} // namespace

TEST_CASE("entries are conserved and grouped as an Assignment promises") {
  for (auto const& c : compositions()) {
    INFO(c.name);
    auto const machine = c.make({});
    for (offset_t tokens : {1, 2, 39, 40}) {
      auto const result = machine->run(random_batch(*machine, tokens, unsigned(tokens)));
      check_assignment(result, tokens, machine->sizes());
      if (c.competes && tokens == 40) REQUIRE(result.status.dropped > 0);
      REQUIRE(result.status.non_finite_logits == 0);
    }
  }
}

TEST_CASE("grouping is right for more tokens than one block of the counting sort") {
  Setup setup;
  setup.tokens = 300;
  for (auto const& c : compositions()) {
    INFO(c.name);
    auto const machine = c.make(setup);
    check_assignment(machine->run(random_batch(*machine, 257)), 257, machine->sizes());
  }
}

TEST_CASE("permuting tokens permutes outputs and gradients") {
  for (auto const& c : compositions()) {
    if (c.by_position) continue; // see the next case
    INFO(c.name);
    auto const machine = c.make({});
    auto const width = machine->sizes().hidden;
    auto const batch = random_batch(*machine, 40);
    auto const order = permutation(40, 5);
    auto permuted = batch;
    permuted.x = rows_of(batch.x, order, width);
    permuted.dy = rows_of(batch.dy, order, width);
    auto const a = machine->run(batch, Pass::forward_and_backward);
    auto const b = machine->run(permuted, Pass::forward_and_backward);
    REQUIRE(identical(b.y, rows_of(a.y, order, width)));
    REQUIRE(identical(b.dx, rows_of(a.dx, order, width)));
    for (std::size_t t = 0; t < 40; ++t) {
      REQUIRE(choices(b, t) == choices(a, order[t]));
      REQUIRE(identical(weights(b, t), weights(a, order[t])));
    }
    // Sums over tokens are taken in another order: 40 terms that cancel to a tenth or so, in float32.
    for (auto const& [name, tensor] : a.gradients) {
      INFO(name);
      REQUIRE(relative_error(b.gradients.at(name).values, tensor.values) < 40 * 10 * 6e-8);
    }
    REQUIRE(b.loss == Approx(a.loss).epsilon(40 * 6e-8));
  }
}

TEST_CASE("capacity in position order serves the first tokens, and so is not equivariant") {
  auto const machine = composition("Switch").make({});
  auto const batch = random_batch(*machine, 40);
  auto const a = machine->run(batch);
  std::map<index_t, int> served;
  for (std::size_t t = 0; t < 40; ++t) {
    index_t const e = choices(a, t).at(0);
    bool const executed = a.row[std::size_t(a.token_offsets[t])] != kokomo::none;
    REQUIRE(executed == (served[e] < 4));
    served[e] += executed;
  }
  auto reversed = batch;
  std::vector<std::size_t> order(40);
  for (std::size_t t = 0; t < 40; ++t) order[t] = 39 - t;
  reversed.x = rows_of(batch.x, order, machine->sizes().hidden);
  REQUIRE_FALSE(identical(machine->run(reversed).y, rows_of(a.y, order, machine->sizes().hidden)));
}

TEST_CASE("a token computes the same alone, among others and in a larger plan") {
  for (auto const& c : compositions()) {
    if (c.competes) continue;
    INFO(c.name);
    auto const machine = c.make({});
    auto const width = machine->sizes().hidden;
    auto const batch = random_batch(*machine, 40);
    auto const all = machine->run(batch);
    Setup small;
    small.tokens = 1;
    auto const alone = c.make(small);
    alone->parameters = machine->parameters;
    for (std::size_t t : {0u, 17u, 39u}) {
      Batch one;
      one.tokens = 1;
      one.x = rows_of(batch.x, {t}, width);
      REQUIRE(identical(alone->run(one).y, rows_of(all.y, {t}, width)));
      REQUIRE(identical(machine->run(one).y, rows_of(all.y, {t}, width)));
    }
  }
}

TEST_CASE("padding changes nothing for anybody else") {
  for (auto const& c : compositions()) {
    INFO(c.name);
    auto const machine = c.make({}), padded_machine = c.make({});
    auto const width = machine->sizes().hidden;
    auto batch = random_batch(*machine, 25);
    batch.mode = c.training_differs ? kokomo::Mode::inference : kokomo::Mode::training; // random draws know positions
    Batch padded = random_batch(*machine, 40, 99);                                      // garbage where nobody is
    padded.mode = batch.mode;
    std::vector<std::size_t> places = permutation(40, 3);
    places.resize(25);
    std::sort(places.begin(), places.end());
    padded.mask.assign(40, 0);
    if (c.shared) std::fill(padded.dy.begin(), padded.dy.end(), 0); // shared experts do see padding
    for (std::size_t i = 0; i < places.size(); ++i) {
      padded.mask[places[i]] = 1;
      for (offset_t h = 0; h < width; ++h) {
        padded.x[places[i] * std::size_t(width) + h] = batch.x[i * std::size_t(width) + h];
        padded.dy[places[i] * std::size_t(width) + h] = batch.dy[i * std::size_t(width) + h];
      }
    }
    auto const a = machine->run(batch, Pass::forward_and_backward);
    auto const b = padded_machine->run(padded, Pass::forward_and_backward);
    check_assignment(b, 40, machine->sizes(), padded.mask);
    REQUIRE(identical(rows_of(b.y, places, width), a.y));
    REQUIRE(identical(rows_of(b.dx, places, width), a.dx));
    REQUIRE(identical(b.gradients, a.gradients));
    REQUIRE(b.loss == Approx(a.loss).epsilon(1e-6)); // sums over blocks of tokens, which padding shifts
    REQUIRE(identical(padded_machine->state, machine->state));
    REQUIRE(b.status.dropped == a.status.dropped);
    REQUIRE(b.status.tokens_without_expert == a.status.tokens_without_expert + 15);
    if (!c.shared)
      for (std::size_t t = 0; t < 40; ++t)
        if (padded.mask[t] == 0)
          for (double value : rows_of(b.y, {t}, width)) REQUIRE(value == 0);
  }
}

TEST_CASE("a batch of padding alone") {
  for (auto const& c : compositions()) {
    INFO(c.name);
    auto const machine = c.make({});
    auto batch = random_batch(*machine, 6);
    batch.mask.assign(6, 0);
    batch.mode = kokomo::Mode::training;
    auto const result = machine->run(batch, Pass::forward_and_backward);
    check_assignment(result, 6, machine->sizes(), batch.mask);
    REQUIRE(result.loss == 0);
    for (double g : result.gradients.at("router.weight").values) REQUIRE(g == 0);
    for (double v : result.dx) REQUIRE(std::isfinite(v));
  }
}

TEST_CASE("identical tokens are routed and computed identically") {
  for (auto const& c : compositions()) {
    if (c.competes) continue;
    INFO(c.name);
    auto const machine = c.make({});
    auto const width = machine->sizes().hidden;
    auto batch = random_batch(*machine, 40);
    std::copy_n(batch.x.begin() + 3 * width, width, batch.x.begin() + 31 * width);
    auto const result = machine->run(batch);
    REQUIRE(choices(result, 3) == choices(result, 31));
    REQUIRE(identical(weights(result, 3), weights(result, 31)));
    REQUIRE(identical(rows_of(result.y, {3}, width), rows_of(result.y, {31}, width)));
  }
}
