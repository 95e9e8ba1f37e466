// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compositions.hpp>
#include <properties/machine_of.hpp>

#include <kokomo/gate/selected_softmax.hpp>

namespace properties {

using namespace kokomo;

/// GPT-OSS: softmax over the chosen, clamped interleaved SwiGLU with biases.
template <class T> std::unique_ptr<Machine> make::gpt_oss(Setup const& setup) {
  using Layer = Layer<Router<LinearScorer, TopK<>>, SelectedSoftmaxGate, NoBalancer, ClampedSwiGluExperts, T>;
  typename Layer::Policies policies;
  policies.router.scorer.bias = true;
  policies.router.selector.k = setup.k;
  policies.gate.scale = 1.25f;
  policies.experts.intermediate = 8;
  policies.experts.bias = true;
  policies.experts.gate_up = GateUp::interleaved;
  policies.experts.up_order = policies.experts.down_order = WeightOrder::in_out;
  policies.experts.activation = {1.702f, 1.25f, 1.25f, 1.0f, Clamp::before_activation};
  return make_machine<Layer>(setup, policies);
}
template std::unique_ptr<Machine> make::gpt_oss<float>(Setup const&);
template std::unique_ptr<Machine> make::gpt_oss<double>(Setup const&);

} // namespace properties
