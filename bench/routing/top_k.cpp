// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <routing/routing_case.hpp>

#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/router/group_limited_top_k.hpp>

std::vector<bench::RoutingCase> bench::top_k_cases() {
  using namespace kokomo;
  using Plain = RoutingLayer<Router<LinearScorer, TopK<>>, SoftmaxGate>;
  using Biased = RoutingLayer<Router<LinearScorer, TopK<>>, NormalizedSigmoidGate, SelectionBias>;
  using Grouped = RoutingLayer<Router<LinearScorer, GroupLimitedTopK<>>, NormalizedSigmoidGate, SelectionBias>;
  return {
      routing_case<Plain>("top-k",
                          [](Dimensions const& shape) {
                            return Plain::Policies{.router = {.selector = {.k = int(shape.k)}},
                                                   .gate = {.normalize = Normalize::sum}};
                          }),
      routing_case<Biased>(
          "top-k, loss-free bias",
          [](Dimensions const& shape) { return Biased::Policies{.router = {.selector = {.k = int(shape.k)}}}; }),
      routing_case<Grouped>("group-limited top-k, bias",
                            [](Dimensions const& shape) {
                              return Grouped::Policies{
                                  .router = {.selector = {.k = int(shape.k), .groups = 8, .allowed_groups = 4}}};
                            }),
  };
}
