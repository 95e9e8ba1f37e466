// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/adjust/additive_logits.hpp>
#include <kokomo/adjust/adjustments.hpp>
#include <kokomo/adjust/expert_mask_schedule.hpp>
#include <kokomo/adjust/logit_jitter.hpp>
#include <kokomo/adjust/pheromone.hpp>
#include <kokomo/adjust/steering.hpp>
#include <kokomo/router/input_jitter.hpp>
#include <kokomo/router/replay.hpp>
#include <kokomo/router/self_healing.hpp>

using namespace kokomo;

namespace {

template <class Exec>
using Decorated = Layer<Router<InputJitter<>, Replay<SelfHealing<TopK<>>>>, SoftmaxGate, NoBalancer, AnyPlainExperts,
                        float, Exec, Adjustments<Pheromone, Steering, ExpertMaskSchedule, AdditiveLogits, LogitJitter>>;

} // namespace

int decorators() {
  int failed = 0;
  for (auto const mode : {SteeringMode::soft, SteeringMode::hard})
    failed += !Run<Decorated>::agrees("Decorated", [mode](auto& p) {
      p.router.selector = {{{.k = 2}}};
      std::get<1>(p.adjust.parts).mode = mode;
      std::get<2>(p.adjust.parts).effect = MaskEffect::logits;
      std::get<2>(p.adjust.parts).layers = 2;
      p.experts.intermediate = 16;
    });
  return failed;
}
