// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "train.hpp"

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/entropy_loss.hpp>
#include <kokomo/balancer/published_losses.hpp>
#include <kokomo/router/top_p.hpp>

using namespace kokomo;

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
