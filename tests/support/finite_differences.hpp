// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_FINITE_DIFFERENCES_HPP
#define KOKOMO_TESTS_SUPPORT_FINITE_DIFFERENCES_HPP

#include <support/layer_fixture.hpp>

namespace kokomo::test {

/// A Fixture as check_gradients sees it, which is compiled once.
class Differentiable {
public:
  virtual ~Differentiable() = default;
  /// Forward pass; `clean` poisons what it writes to.
  virtual void forward(bool clean) = 0;
  virtual void backward(Write write) = 0;
  virtual double loss() const = 0;
  /// Expert and row of every entry.
  virtual std::vector<index_t> choices() const = 0;
  /// Thousands of tiny kernels: one thread runs them without waiting for another on a busy machine.
  virtual void use_one_thread(bool one) = 0;

  Tensors parameters, gradients;   ///< in the same order
  Tensors inputs, input_gradients; ///< likewise
  Tensor y, dy;
  std::mt19937* engine = nullptr;
};

template <class F> class DifferentiableFixture final : public Differentiable {
public:
  explicit DifferentiableFixture(F& fixture) : m_fixture(fixture), m_exec(fixture.exec) {
    parameters = tensors_of(fixture.parameters), gradients = tensors_of(fixture.gradients);
    inputs = {{"x", tensor(fixture.x)}}, input_gradients = {{"x", tensor(fixture.dx)}};
    if (fixture.router_input.extent(1) > 0) {
      inputs.emplace_back("router_input", tensor(fixture.router_input));
      input_gradients.emplace_back("router_input", tensor(fixture.d_router_input));
    }
    y = tensor(fixture.y), dy = tensor(fixture.dy);
    engine = &fixture.engine;
  }
  void forward(bool clean) override { m_fixture.forward(clean); }
  void backward(Write write) override { m_fixture.backward(write); }
  double loss() const override { return tensor(m_fixture.layer.saved(m_fixture.tape).loss).read()[0]; }
  std::vector<index_t> choices() const override {
    auto const assignment = m_fixture.layer.saved(m_fixture.tape).assignment;
    auto all = to_host(assignment.expert);
    for (index_t const row : to_host(assignment.row)) all.push_back(row);
    return all;
  }
  void use_one_thread(bool one) override {
    if (m_exec.concurrency() > 1)
      m_fixture.exec = one ? Kokkos::Experimental::partition_space(m_exec, 1, 1)[0] : m_exec;
  }

private:
  F& m_fixture;
  typename F::Exec m_exec;
};

/// sum(y * dy) + loss after a forward pass: what backward differentiates.
double objective(Differentiable& layer);
template <class F> double objective(F& fixture) {
  DifferentiableFixture<F> layer(fixture);
  return objective(static_cast<Differentiable&>(layer));
}

/// Compares backward with central differences of `objective` in float64, for every parameter and input, and
/// Write::add with Write::overwrite.
///
/// With a step of 1e-5 and third derivatives of order one, a difference is off by h^2 = 1e-10 for truncation and by
/// eps |f| / h = 1e-11 |f| for rounding. 1e-6 of the gradient's norm leaves four digits for curvature; where a gradient
/// vanishes (one expert with normalised weights) rounding alone is left. Choices must not change on the way: a seed
/// that puts a tie within reach of a step is refused.
void check_gradients(Differentiable& layer, double bound);

template <class F> void check_gradients(F& fixture, double bound = 1e-6) {
  static_assert(std::is_same_v<typename F::T, double>, "finite differences need float64");
  DifferentiableFixture<F> layer(fixture);
  check_gradients(static_cast<Differentiable&>(layer), bound);
}

/// The gradients of all parameters and inputs that backward wrote, by name.
template <class F> std::map<std::string, Row> gradients_of(F const& fixture) {
  std::map<std::string, Row> gradients;
  for (auto const& [name, tensor] : tensors_of(fixture.gradients)) gradients[name] = tensor.read();
  gradients["x"] = tensor(fixture.dx).read();
  if (fixture.router_input.extent(1) > 0) gradients["router_input"] = tensor(fixture.d_router_input).read();
  return gradients;
}

} // namespace kokomo::test

#endif
