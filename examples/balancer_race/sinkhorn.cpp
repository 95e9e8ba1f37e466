// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "train.hpp"

#include <kokomo/router/sinkhorn_top_k.hpp>

using namespace kokomo;

Result sinkhorn(Text const& text, Options const& options, Report const& report) {
  using Subject = Layer<Router<LinearScorer, SinkhornTopK>, SoftmaxGate, NoBalancer>;
  auto result = train<Subject>("Sinkhorn", {.router = {.selector = {.k = options.active}}}, text, options, report);
  result.note = "balances in training only: in inference it takes the largest logits";
  return result;
}
