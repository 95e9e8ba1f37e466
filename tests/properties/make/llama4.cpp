// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compositions.hpp>
#include <properties/machine_of.hpp>

namespace properties {

using namespace kokomo;

/// Llama 4: top-1, the sigmoid weight on the expert's input, a shared expert.
template <class T> std::unique_ptr<Machine> make::llama4(Setup const& setup) {
  using Layer = Layer<Router<LinearScorer, TopK<1>>, OnInput<SigmoidGate>, NoBalancer, WithShared<SwiGluExperts>, T>;
  typename Layer::Policies policies;
  policies.experts.routed.intermediate = 8;
  policies.experts.shared.intermediate = 8;
  return make_machine<Layer>(setup, policies);
}
template std::unique_ptr<Machine> make::llama4<float>(Setup const&);
template std::unique_ptr<Machine> make::llama4<double>(Setup const&);

} // namespace properties
