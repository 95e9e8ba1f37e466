// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compositions.hpp>
#include <properties/machine_of.hpp>

#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/capacity/capacity.hpp>

namespace properties {

using namespace kokomo;

/// Switch: top-1 with capacity in position order and its auxiliary loss.
template <class T> std::unique_ptr<Machine> make::switch_transformer(Setup const& setup) {
  using Layer = Layer<Router<LinearScorer, TopK<1>>, SoftmaxGate, LoadBalancingLoss, ReluExperts, T,
                      Kokkos::DefaultExecutionSpace, Capacity>;
  typename Layer::Policies policies;
  policies.balancer.top_k = 1;
  policies.capacity.places = 4; // a number that padding does not change
  policies.experts.intermediate = 9;
  return make_machine<Layer>(setup, policies);
}
template std::unique_ptr<Machine> make::switch_transformer<float>(Setup const&);
template std::unique_ptr<Machine> make::switch_transformer<double>(Setup const&);

} // namespace properties
