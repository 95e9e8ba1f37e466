// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/scorer_fixture.hpp>

namespace kokomo::test {

void check_scorer_gradients(ScorerGradients const& scorer) {
  (void)scorer.forward();
  Row c(scorer.logits);
  std::uniform_real_distribution<double> uniform(-1, 1);
  for (double& value : c) value = uniform(*scorer.engine);
  scorer.backward(c, Write::overwrite);
  auto const objective = [&] {
    Row const z = flat(scorer.forward());
    double sum = 0;
    for (std::size_t i = 0; i < z.size(); ++i) sum += c[i] * z[i];
    return sum;
  };
  auto const check = [&](std::string const& name, Tensor const& tensor, Tensor const& gradient) {
    INFO(name);
    Row const got = gradient.read();
    auto values = tensor.read();
    Row differences;
    for (double& value : values) {
      double const original = value;
      double at[2];
      for (int side = 0; side < 2; ++side) {
        value = original + (side == 0 ? 1e-5 : -1e-5);
        tensor.write(values);
        at[side] = objective();
      }
      value = original;
      differences.push_back((at[0] - at[1]) / 2e-5);
    }
    tensor.write(values);
    CHECK(distance(got, differences) <= 1e-7 * (1 + norm(differences)));
  };
  std::vector<Row> once;
  for (std::size_t i = 0; i < scorer.parameters.size(); ++i) {
    once.push_back(scorer.gradients[i].second.read());
    check(scorer.parameters[i].first, scorer.parameters[i].second, scorer.gradients[i].second);
  }
  for (auto const& [input, gradient] : scorer.inputs) check("input", input, gradient);

  (void)scorer.forward(); // the scorer's saved values belong to the unchanged parameters again
  scorer.backward(c, Write::add);
  for (std::size_t i = 0; i < scorer.gradients.size(); ++i) {
    auto const& [name, gradient] = scorer.gradients[i];
    Row twice = once[i];
    for (double& value : twice) value *= 2;
    INFO("add: " << name);
    CHECK(relative_error(gradient.read(), twice) < 1e-13);
  }
}

} // namespace kokomo::test
