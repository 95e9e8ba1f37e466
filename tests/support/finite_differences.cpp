// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>

#include <cmath>

namespace kokomo::test {

double objective(Differentiable& layer) {
  layer.forward(false);
  auto const y = layer.y.read(), dy = layer.dy.read();
  double sum = layer.loss();
  for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
  return sum;
}

namespace {

std::map<std::string, Row> gradients_in(Differentiable const& layer) {
  std::map<std::string, Row> gradients;
  for (auto const* const all : {&layer.gradients, &layer.input_gradients})
    for (auto const& [name, tensor] : *all) gradients[name] = tensor.read();
  return gradients;
}

} // namespace

void check_gradients(Differentiable& layer, double bound) {
  constexpr double h = 1e-5;
  layer.forward(true);
  double const size = norm(layer.y.read()) * norm(layer.dy.read());
  layer.backward(Write::overwrite);
  auto const gradients = gradients_in(layer);
  double const value = std::abs(objective(layer)) + size;

  layer.use_one_thread(true);
  bool same_choices = true;
  auto const base_choices = layer.choices();
  for (auto const* const all : {&layer.parameters, &layer.inputs})
    for (auto const& [name, tensor] : *all) {
      auto values = tensor.read();
      Row differences;
      for (double& element : values) {
        double const original = element;
        double f[2];
        for (int side = 0; side < 2; ++side) {
          element = original + (side == 0 ? h : -h);
          tensor.write(values);
          f[side] = objective(layer);
          same_choices = same_choices && layer.choices() == base_choices;
        }
        element = original;
        differences.push_back((f[0] - f[1]) / (2 * h));
      }
      tensor.write(values);
      INFO(name << ": norm " << norm(differences));
      double const rounding = std::sqrt(double(values.size())) * value * 1e-15 / h;
      CHECK(distance(gradients.at(name), differences) <= bound * norm(differences) + rounding);
    }
  layer.use_one_thread(false);
  REQUIRE(same_choices);

  // Add: what stood there plus the same gradient. Inputs' gradients are overwritten all the same.
  layer.forward(true);
  std::map<std::string, Row> before;
  for (auto const& [name, tensor] : layer.gradients) {
    fill_uniform(tensor, *layer.engine);
    before[name] = tensor.read();
  }
  layer.backward(Write::add);
  for (auto const& [name, added] : gradients_in(layer)) {
    INFO(name);
    auto expected = gradients.at(name);
    if (before.contains(name))
      for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += before[name][i];
    // one rounding more an element, or the same sum in another order
    CHECK(distance(added, expected) <= 1e-14 * (norm(gradients.at(name)) + norm(expected)));
  }
}

} // namespace kokomo::test
