// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compare.hpp>
#include <properties/compositions.hpp>

using namespace properties;

namespace {

void require_same(Result const& a, Result const& b) {
  REQUIRE(identical(a.y, b.y));
  REQUIRE(identical(a.logits, b.logits));
  REQUIRE(identical(a.weight, b.weight));
  REQUIRE(a.expert == b.expert);
  REQUIRE(a.row == b.row);
  REQUIRE(a.loss == b.loss);
  REQUIRE(identical(a.dx, b.dx));
  REQUIRE(identical(a.gradients, b.gradients));
}

} // namespace

TEST_CASE("the same input gives the same bits, however often and on however many threads") {
  Setup setup;
  setup.tokens = 150;
  setup.hidden = 20;
  for (auto const& c : compositions()) {
    INFO(c.name);
    auto const machine = c.make(setup);
    auto batch = random_batch(*machine, 150);
    batch.mode = kokomo::Mode::training;
    auto const first = machine->run(batch, Pass::forward_and_backward);
    auto const state = machine->state;
    for (int workers : {0, 1, 2, 3, 7}) {
      INFO(workers << " workers");
      machine->workers = workers;
      for (bool partition : {false, true}) {
        machine->partition = partition;
        for (auto& [name, tensor] : machine->state) std::fill(tensor.values.begin(), tensor.values.end(), 0);
        require_same(machine->run(batch, Pass::forward_and_backward), first);
        REQUIRE(identical(machine->state, state));
      }
    }
  }
}
