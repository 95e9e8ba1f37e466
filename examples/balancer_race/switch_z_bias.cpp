// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "train.hpp"

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/balancer/z_loss.hpp>

namespace {

using namespace kokomo;

using TopKLayer = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, Balancers<SelectionBias, LoadBalancingLoss, ZLoss>>;

/// The same layer for all: what is not asked for has the coefficient zero.
Result run(char const* name, float bias_rate, float loss, float z, Text const& text, Options const& options,
           Report const& report) {
  return train<TopKLayer>(
      name,
      {.router = {.selector = {.k = options.active}},
       .balancer = {{{.rate = bias_rate}, {.coefficient = loss, .top_k = options.active}, {.coefficient = z}}}},
      text, options, report);
}

} // namespace

Result no_balancing(Text const& text, Options const& options, Report const& report) {
  return run("none", 0, 0, 0, text, options, report);
}
Result switch_loss(Text const& text, Options const& options, Report const& report) {
  return run("Switch loss", 0, 1e-2f, 0, text, options, report);
}
Result z_loss(Text const& text, Options const& options, Report const& report) {
  return run("z-loss", 0, 0, 1e-3f, text, options, report);
}
Result loss_free_bias(Text const& text, Options const& options, Report const& report) {
  return run("loss-free bias", 5e-3f, 0, 0, text, options, report);
}
