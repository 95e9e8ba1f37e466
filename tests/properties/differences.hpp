// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_PROPERTIES_DIFFERENCES_HPP
#define KOKOMO_TESTS_PROPERTIES_DIFFERENCES_HPP

#include <properties/compare.hpp>

#include <functional>

namespace properties {

/// What backward differentiates.
inline double objective(Machine& machine, Batch const& batch) {
  auto const result = machine.run(batch);
  double sum = result.loss;
  for (std::size_t i = 0; i < result.y.size(); ++i) sum += result.y[i] * batch.dy[i];
  return sum;
}

/// Central differences along random directions against <gradient, direction>. Truncation is of order h^2 = 1e-10 and
/// rounding 1e-16 |objective| / h = 1e-10, both relative to slopes of order 1 to 10.
inline void check_directions(std::string const& name, std::vector<double>& values, std::vector<double> const& gradient,
                             std::function<double()> const& f) {
  INFO(name);
  double const h = 1e-5;
  auto const at = values;
  for (unsigned seed : {1u, 2u}) {
    auto const direction = random_numbers(values.size(), seed);
    double expected = 0, slope[2];
    for (std::size_t i = 0; i < values.size(); ++i) expected += gradient[i] * direction[i];
    for (int side : {0, 1}) {
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = at[i] + (side == 0 ? h : -h) * direction[i];
      slope[side] = f();
    }
    values = at;
    REQUIRE((slope[0] - slope[1]) / (2 * h) == Approx(expected).epsilon(1e-6).margin(1e-7));
  }
}

/// Every gradient of one batch.
inline void check_gradients(Machine& machine, Batch batch) {
  machine.workers = 1; // the smallest workspace to poison
  auto const result = machine.run(batch, Pass::forward_and_backward);
  auto const f = [&] { return objective(machine, batch); };
  check_directions("x", batch.x, result.dx, f);
  if (!batch.router_input.empty()) check_directions("router input", batch.router_input, result.d_router_input, f);
  for (auto& [name, tensor] : machine.parameters)
    check_directions(name, tensor.values, result.gradients.at(name).values, f);
}

} // namespace properties

#endif
