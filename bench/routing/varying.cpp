// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <routing/routing_case.hpp>

#include <kokomo/router/expert_choice.hpp>
#include <kokomo/router/positive.hpp>
#include <kokomo/router/top_p.hpp>

std::vector<bench::RoutingCase> bench::varying_cases() {
  using namespace kokomo;
  using Nucleus = RoutingLayer<Router<LinearScorer, TopP>, SoftmaxGate>;
  using Relu = RoutingLayer<Router<LinearScorer, Positive>, ReluGate>;
  using Choice = RoutingLayer<Router<LinearScorer, ExpertChoice>, SoftmaxGate>;
  return {
      routing_case<Nucleus>("top-p, p = 0.4", [](Dimensions const&) { return Nucleus::Policies{}; }),
      routing_case<Relu>("positive (ReLU)", [](Dimensions const&) { return Relu::Policies{}; }),
      routing_case<Choice>("expert choice",
                           [](Dimensions const& shape) {
                             return Choice::Policies{.router = {.selector = {.factor = double(shape.k)}}};
                           }),
  };
}
