// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compositions.hpp>
#include <properties/machine_of.hpp>

#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/capacity/capacity.hpp>

namespace properties {

using namespace kokomo;

std::unique_ptr<Machine> one_place(Setup const& setup) {
  using Layer = Layer<Router<LinearScorer, TopK<1>>, SoftmaxGate, SelectionBias, ReluExperts, float,
                      Kokkos::DefaultExecutionSpace, Capacity>;
  Layer::Policies policies;
  policies.capacity.places = 1;
  policies.experts.intermediate = 9;
  return make_machine<Layer>(setup, policies);
}

} // namespace properties
