// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compare.hpp>
#include <properties/compositions.hpp>

#include <kokomo/half.hpp>

using namespace properties;

namespace {

template <class T> void round_to(std::vector<double>& values) {
  for (double& value : values) value = static_cast<double>(static_cast<float>(T(static_cast<float>(value))));
}

/// A composition in storage type T against the same in float64, on parameters and inputs that T holds exactly.
template <class T> void check(double bound) {
  auto const machine = make::deepseek<T>({}), reference = make::deepseek<double>({});
  auto batch = random_batch(*reference, 40);
  round_to<T>(batch.x);
  round_to<T>(batch.dy);
  for (auto& [name, tensor] : reference->parameters) round_to<T>(tensor.values);
  machine->parameters = reference->parameters;
  auto const a = machine->run(batch, Pass::forward_and_backward),
             ref = reference->run(batch, Pass::forward_and_backward);
  check_assignment(a, 40, machine->sizes());
  REQUIRE(a.expert == ref.expert);
  // Router, scores and weights work in float32 whatever the storage: 12 products and a normalisation.
  REQUIRE(relative_error(a.logits, ref.logits) < 1e-6);
  REQUIRE(relative_error(a.weight, ref.weight) < 1e-6);
  REQUIRE(relative_error(a.y, ref.y) < bound);
  REQUIRE(relative_error(a.dx, ref.dx) < 2 * bound);
  for (auto const& [name, tensor] : ref.gradients) {
    INFO(name);
    REQUIRE(relative_error(a.gradients.at(name).values, tensor.values) < 2 * bound);
  }
}

} // namespace

// Pre-activations, hidden layer and output are each rounded once to storage: half a unit in the last place, 2^-9, 2^-12
// and 2^-25 relative, times three, and half as much again for the slope of the activation.
TEST_CASE("float16 stores, float32 computes") {
  check<kokomo::float16>(4.5 / 4096);
}
TEST_CASE("bfloat16 stores, float32 computes") {
  check<kokomo::bfloat16>(4.5 / 512);
}
TEST_CASE("float32 against float64") {
  check<float>(1e-6);
}
