// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "contestant.hpp"

#include <kokomo/balancer/adaptive_l1.hpp>
#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/bip_balancing.hpp>
#include <kokomo/balancer/entropy_loss.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/published_losses.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/balancer/z_loss.hpp>
#include <kokomo/router/expert_choice.hpp>
#include <kokomo/router/positive.hpp>
#include <kokomo/router/sinkhorn_top_k.hpp>
#include <kokomo/router/top_p.hpp>

// One file: most of what it costs to compile a layer is the experts' kernels, which all of these share.

using namespace kokomo;

namespace {

using TopKLayer = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, Balancers<SelectionBias, LoadBalancingLoss, ZLoss>>;

/// The same layer for four of them: what is not asked for has the coefficient zero.
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

Result bip(Text const& text, Options const& options, Report const& report) {
  using Subject = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, BipBalancing>;
  return train<Subject>("BIP", {.router = {.selector = {.k = options.active}}}, text, options, report);
}

Result remoe(Text const& text, Options const& options, Report const& report) {
  using Subject = Layer<Router<LinearScorer, Positive>, ReluGate, AdaptiveL1>;
  auto result = train<Subject>("ReMoE", {.balancer = {.target = float(options.active)}}, text, options, report);
  result.note = "the number of experts a token is learned towards a target";
  return result;
}

Result sinkhorn(Text const& text, Options const& options, Report const& report) {
  using Subject = Layer<Router<LinearScorer, SinkhornTopK>, SoftmaxGate, NoBalancer>;
  auto result = train<Subject>("Sinkhorn", {.router = {.selector = {.k = options.active}}}, text, options, report);
  result.note = "balances in training only: in inference it takes the largest logits";
  return result;
}

Result expert_choice(Text const& text, Options const& options, Report const& report) {
  using Subject = Layer<Router<LinearScorer, ExpertChoice>, SoftmaxGate, NoBalancer>;
  auto result = train<Subject>("expert choice", {.router = {.selector = {.factor = double(options.active)}}}, text,
                               options, report);
  result.note = "not causal: whether an expert takes a token depends on later tokens";
  return result;
}

Result top_p(Text const& text, Options const& options, Report const& report) {
  auto const loss = top_p_loss(1e-2f);
  using Subject =
      Layer<Router<LinearScorer, TopP>, SoftmaxGate, Balancers<std::remove_const_t<decltype(loss)>, EntropyLoss>>;
  auto result =
      train<Subject>("top-p", {.router = {.selector = {.p = 0.4f}}, .balancer = {{loss, {.coefficient = 1e-2f}}}}, text,
                     options, report);
  result.note = "as many experts as it takes for a mass of 0.4; an entropy loss keeps them few";
  return result;
}
