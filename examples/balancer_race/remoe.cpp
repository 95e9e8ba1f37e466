// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "train.hpp"

#include <kokomo/balancer/adaptive_l1.hpp>
#include <kokomo/router/positive.hpp>

using namespace kokomo;

Result remoe(Text const& text, Options const& options, Report const& report) {
  using Subject = Layer<Router<LinearScorer, Positive>, ReluGate, AdaptiveL1>;
  auto result = train<Subject>("ReMoE", {.balancer = {.target = float(options.active)}}, text, options, report);
  result.note = "the number of experts a token is learned towards a target";
  return result;
}
