// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <discipline/check.hpp>

#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/gate/sparse_mixer.hpp>
#include <kokomo/router/given.hpp>

using namespace kokomo;

TEST_CASE("discipline: softmax over the chosen, clamped interleaved experts with biases, a bias on the sum") {
  using Composition = Layer<Router<LinearScorer, TopK<>>, SelectedSoftmaxGate, NoBalancer, ClampedSwiGluExperts>;
  Composition::Policies policies;
  policies.experts.intermediate = 8;
  policies.experts.bias = true;
  policies.experts.gate_up = GateUp::interleaved;
  policies.experts.up_order = policies.experts.down_order = WeightOrder::in_out;
  policies.combine.bias = true;
  discipline::check<Composition>(policies, 40);
}

TEST_CASE("discipline: SparseMixer in training") {
  using Composition = Layer<Router<LinearScorer, SparseMixer>, SparseMixerGate, NoBalancer, SwiGluExperts>;
  Composition::Policies policies;
  policies.experts.intermediate = 8;
  policies.experts.gate_up = GateUp::separate;
  discipline::check<Composition>(policies, 1);
}

TEST_CASE("discipline: a given choice, weights on the input, float64") {
  using Composition = Layer<Router<LinearScorer, Given>, OnInput<SigmoidGate>, NoBalancer, SquaredReluExperts, double>;
  Composition::Policies policies;
  policies.router.selector.k = 3;
  policies.experts.intermediate = 8;
  discipline::check<Composition>(policies);
}
