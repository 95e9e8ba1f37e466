// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compositions.hpp>
#include <properties/differences.hpp>

using namespace properties;

TEST_CASE("every gradient of every composition is the slope of its objective") {
  for (bool special : {false, true})
    for (auto const& c : differentiable_compositions()) {
      INFO(c.name << (special ? ", router input of its own, masked" : ""));
      Setup setup;
      setup.tokens = 17;
      setup.router_hidden = special ? 5 : 0;
      auto const machine = c.make(setup);
      auto batch = random_batch(*machine, 17);
      if (special) batch.router_input = random_numbers(17 * 5, 33);
      if (special) batch.mask = {1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0};
      if (machine->state.contains("balancer.bias"))
        machine->state.at("balancer.bias").values = random_numbers(std::size_t(machine->sizes().experts), 4, 0.25);
      check_gradients(*machine, batch);
    }
}
