// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "adjusted.hpp"

#include <kokomo/adjust/adjustments.hpp>
#include <kokomo/adjust/expert_mask_schedule.hpp>
#include <kokomo/adjust/selective_sinkhorn.hpp>

#include <algorithm>

namespace order_test {

using namespace kokomo;
using namespace kokomo::test;

SelectiveSinkhorn const sinkhorn{.probability = 1, .iterations = 5000, .tolerance = 1e-14f, .detach = false};
/// Experts 0 and 1 of 4 are visible at step 0.
ExpertMaskSchedule const schedule{.visible = VisibleExperts::local, .layers = 2, .begin = 1, .end = 2};

/// exp of the logits that a stack makes of these, seen as a layer sees them: a part sees what the parts before it masked.
template <class Stack> struct Planned {
  Adjusted<Stack> adjusted;
  Rows plan;

  Planned(Stack const& stack, Rows const& logits) : adjusted(stack, logits) {
    auto& f = adjusted.fixture;
    auto const saved = f.template saved_of<Stack>(stack);
    f.routing.mode = Mode::training;
    f.routing.expert_mask = stack.template expert_mask<double, Exec>(adjusted.state, saved);
    stack.template adjust<double>(f.exec, adjusted.parameters, f.routing, adjusted.state, adjusted.inputs,
                                  Matrix<double, Exec>(f.logits), saved);
    f.exec.fence();
    f.set_expert_mask(to_host(stack.template expert_mask<double, Exec>(adjusted.state, saved)));
    plan = in_rows(in_double(to_host(f.logits)), logits.size());
    for (auto& row : plan)
      for (double& p : row) p = std::exp(p);
    f.template select<SoftmaxScore>(TopK<>{.k = 1});
  }
  double mass(std::size_t expert) const {
    double sum = 0;
    for (auto const& row : plan) sum += row[expert];
    return sum;
  }
};

/// The balanced plan of the logits of some experts, by scaling rows and columns in turn.
Rows plan_over(Rows const& logits, std::vector<std::size_t> const& experts) {
  Rows plan(logits.size(), Row(logits[0].size(), 0.0));
  for (std::size_t t = 0; t < logits.size(); ++t)
    for (auto const e : experts) plan[t][e] = std::exp(logits[t][e] / double(0.5f));
  for (int i = 0; i < 2000; ++i) {
    for (auto const e : experts) {
      double sum = 0;
      for (auto const& row : plan) sum += row[e];
      for (auto& row : plan) row[e] *= double(logits.size()) / double(experts.size()) / sum;
    }
    for (auto& row : plan) {
      double sum = 0;
      for (double const p : row) sum += p;
      for (double& p : row) p /= sum;
    }
  }
  return plan;
}

TEST_CASE("a transport plan behind a mask is over the visible experts alone, before it over all of them") {
  auto const logits = some_logits(12, 4);
  for (auto const effect : {MaskEffect::selection, MaskEffect::logits}) {
    auto mask = schedule;
    mask.effect = effect;
    using Behind = Adjustments<ExpertMaskSchedule, SelectiveSinkhorn>;
    Planned<Behind> const behind(Behind{{mask, sinkhorn}}, logits);
    // both are as good as their tolerances
    REQUIRE(relative_error(flat(behind.plan), flat(plan_over(logits, {0, 1}))) < 1e-9);
    REQUIRE(behind.mass(0) == Approx(6));
    REQUIRE(behind.mass(1) == Approx(6));

    using Before = Adjustments<SelectiveSinkhorn, ExpertMaskSchedule>;
    Planned<Before> const before(Before{{sinkhorn, mask}}, logits);
    auto expected = plan_over(logits, {0, 1, 2, 3});
    if (effect == MaskEffect::logits)
      for (auto& row : expected) row[2] = row[3] = 0;
    REQUIRE(relative_error(flat(before.plan), flat(expected)) < 1e-9);
    REQUIRE(before.mass(0) == Approx(3)); // the masked experts keep their share of the plan: the visible ones get less
    REQUIRE(before.mass(1) == Approx(3));

    for (auto const& choice : {behind.adjusted.fixture.chosen(), before.adjusted.fixture.chosen()})
      for (auto const& token : choice) REQUIRE(token.at(0) < 2);
  }
}

} // namespace order_test
