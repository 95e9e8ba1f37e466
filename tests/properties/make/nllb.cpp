// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compositions.hpp>
#include <properties/machine_of.hpp>

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/z_loss.hpp>
#include <kokomo/capacity/capacity.hpp>
#include <kokomo/router/top_2.hpp>

namespace properties {

using namespace kokomo;

/// NLLB: two experts, batch-prioritised capacity, weights renormalised over what is executed, two losses.
template <class T> std::unique_ptr<Machine> make::nllb(Setup const& setup) {
  using Layer = Layer<Router<LinearScorer, Top2>, ScoreGate<SoftmaxScore, Normalize::sum_clamp_min>,
                      Balancers<LoadBalancingLoss, ZLoss>, ReluExperts, T, Kokkos::DefaultExecutionSpace, Capacity>;
  typename Layer::Policies policies;
  policies.gate.epsilon = 1e-7f;
  policies.gate.drops = Drops::renormalize;
  std::get<0>(policies.balancer.parts).top_k = 1;
  policies.capacity.order = CapacityOrder::token_priority;
  policies.capacity.places = 7; // a number that padding does not change
  policies.experts.intermediate = 9;
  policies.experts.bias = true;
  return make_machine<Layer>(setup, policies);
}
template std::unique_ptr<Machine> make::nllb<float>(Setup const&);
template std::unique_ptr<Machine> make::nllb<double>(Setup const&);

} // namespace properties
