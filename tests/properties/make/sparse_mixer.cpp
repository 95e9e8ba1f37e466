// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compositions.hpp>
#include <properties/machine_of.hpp>

#include <kokomo/gate/sparse_mixer.hpp>

namespace properties {

using namespace kokomo;

/// Phi-3.5-MoE: two picks, each in the softmax of the experts close to the best.
std::unique_ptr<Machine> sparse_mixer(Setup const& setup) {
  using Layer = Layer<Router<LinearScorer, SparseMixer>, SparseMixerGate, NoBalancer, SwiGluExperts>;
  Layer::Policies policies;
  policies.router.selector.epsilon = policies.gate.epsilon = 0.2f; // wide, so that picks see several experts
  policies.experts.intermediate = 8;
  return make_machine<Layer>(setup, policies);
}

} // namespace properties
