// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_FINITE_DIFFERENCES_HPP
#define KOKOMO_TESTS_SUPPORT_FINITE_DIFFERENCES_HPP

#include <support/layer_fixture.hpp>

namespace kokomo::test {

/// sum(y * dy) + loss after a forward pass: what backward differentiates.
template <class F> double objective(F& fixture) {
  fixture.forward(false);
  auto const y = in_double(to_host(fixture.y)), dy = in_double(to_host(fixture.dy));
  double sum = in_double(to_host(fixture.layer.saved(fixture.tape).loss))[0];
  for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
  return sum;
}

/// The gradients of all parameters and inputs that backward wrote, by name.
template <class F> std::map<std::string, reference::Row> gradients_of(F const& fixture) {
  std::map<std::string, reference::Row> gradients;
  fixture.gradients.for_each(
      [&](std::string const& name, auto const& view) { gradients[name] = in_double(to_host(view)); });
  gradients["x"] = in_double(to_host(fixture.dx));
  if (fixture.router_input.extent(1) > 0) gradients["router_input"] = in_double(to_host(fixture.d_router_input));
  return gradients;
}

/// Compares backward with central differences of `objective` in float64, for every parameter and input, and
/// Write::add with Write::overwrite.
///
/// With a step of 1e-5 and third derivatives of order one, a difference is off by h^2 = 1e-10 for truncation and by
/// eps |f| / h = 1e-11 |f| for rounding. 1e-6 of the gradient's norm leaves four digits for curvature; where a gradient
/// vanishes (one expert with normalised weights) rounding alone is left. Choices must not change on the way: a seed
/// that puts a tie within reach of a step is refused.
template <class F> void check_gradients(F& fixture, double bound = 1e-6) {
  static_assert(std::is_same_v<typename F::T, double>, "finite differences need float64");
  constexpr double h = 1e-5;
  fixture.forward();
  auto const base = fixture.result();
  fixture.backward();
  auto const gradients = gradients_of(fixture);
  double const value = std::abs(objective(fixture)) + norm(flat(base.y)) * norm(in_double(to_host(fixture.dy)));

  // Thousands of tiny kernels: one thread runs them without waiting for another on a busy machine.
  auto const all_threads = fixture.exec;
  if (all_threads.concurrency() > 1) fixture.exec = Kokkos::Experimental::partition_space(all_threads, 1, 1)[0];
  bool same_choices = true;
  auto const choices = [&] {
    auto const a = fixture.layer.saved(fixture.tape).assignment;
    return std::pair(to_host(a.expert), to_host(a.row));
  };
  auto const base_choices = choices();
  auto const check = [&](std::string const& name, auto const& view) {
    auto values = to_host(view);
    reference::Row differences;
    for (auto& element : values) {
      double const original = element;
      double f[2];
      for (int side = 0; side < 2; ++side) {
        element = original + (side == 0 ? h : -h);
        to_device(values, view);
        f[side] = objective(fixture);
        same_choices = same_choices && choices() == base_choices;
      }
      element = original;
      differences.push_back((f[0] - f[1]) / (2 * h));
    }
    to_device(values, view);
    INFO(name << ": norm " << norm(differences));
    double const rounding = std::sqrt(double(values.size())) * value * 1e-15 / h;
    CHECK(distance(gradients.at(name), differences) <= bound * norm(differences) + rounding);
  };
  fixture.parameters.for_each(check);
  check("x", fixture.x);
  if (fixture.router_input.extent(1) > 0) check("router_input", fixture.router_input);
  fixture.exec = all_threads;
  REQUIRE(same_choices);

  // Add: what stood there plus the same gradient. Inputs' gradients are overwritten all the same.
  fixture.forward();
  std::map<std::string, reference::Row> before;
  fixture.gradients.for_each([&](std::string const& name, auto const& view) {
    fixture.fill(view);
    before[name] = in_double(to_host(view));
  });
  fixture.backward(Write::add);
  for (auto const& [name, added] : gradients_of(fixture)) {
    INFO(name);
    auto expected = gradients.at(name);
    if (before.contains(name))
      for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += before[name][i];
    // one rounding more an element, or the same sum in another order
    CHECK(distance(added, expected) <= 1e-14 * (norm(gradients.at(name)) + norm(expected)));
  }
}

} // namespace kokomo::test

#endif
