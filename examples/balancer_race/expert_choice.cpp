// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "train.hpp"

#include <kokomo/router/expert_choice.hpp>

using namespace kokomo;

Result expert_choice(Text const& text, Options const& options, Report const& report) {
  using Subject = Layer<Router<LinearScorer, ExpertChoice>, SoftmaxGate, NoBalancer>;
  auto result = train<Subject>("expert choice", {.router = {.selector = {.factor = double(options.active)}}}, text,
                               options, report);
  result.note = "not causal: whether an expert takes a token depends on later tokens";
  return result;
}
