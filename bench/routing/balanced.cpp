// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <routing/routing_case.hpp>

#include <kokomo/balancer/bip_balancing.hpp>
#include <kokomo/router/balanced_assignment.hpp>
#include <kokomo/router/sinkhorn_top_k.hpp>

std::vector<bench::RoutingCase> bench::balanced_cases() {
  using namespace kokomo;
  using Bip = RoutingLayer<Router<LinearScorer, TopK<>>, SoftmaxGate, BipBalancing>;
  using Sinkhorn = RoutingLayer<Router<LinearScorer, SinkhornTopK>, SoftmaxGate>;
  using Base = RoutingLayer<Router<LinearScorer, BalancedAssignment>, SigmoidGate>;
  return {
      routing_case<Bip>(
          "BIP, 4 iterations",
          [](Dimensions const& shape) { return Bip::Policies{.router = {.selector = {.k = int(shape.k)}}}; }),
      routing_case<Sinkhorn>(
          "Sinkhorn",
          [](Dimensions const& shape) { return Sinkhorn::Policies{.router = {.selector = {.k = int(shape.k)}}}; }),
      routing_case<Base>(
          "BASE, one expert a token", [](Dimensions const&) { return Base::Policies{}; }, 0, 1),
  };
}
