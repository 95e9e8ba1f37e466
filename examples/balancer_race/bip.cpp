// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "train.hpp"

#include <kokomo/balancer/bip_balancing.hpp>

using namespace kokomo;

Result bip(Text const& text, Options const& options, Report const& report) {
  using Subject = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, BipBalancing>;
  return train<Subject>("BIP", {.router = {.selector = {.k = options.active}}}, text, options, report);
}
