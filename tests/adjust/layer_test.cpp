// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/adjust/additive_logits.hpp>
#include <kokomo/adjust/adjustments.hpp>
#include <kokomo/adjust/expert_mask_schedule.hpp>
#include <kokomo/adjust/logit_jitter.hpp>
#include <kokomo/adjust/pheromone.hpp>
#include <kokomo/adjust/steering.hpp>
#include <kokomo/balancer/z_loss.hpp>

namespace layer_test {

using namespace kokomo;
using namespace kokomo::test;

using Stack = Adjustments<AdditiveLogits, Steering, ExpertMaskSchedule, Pheromone, LogitJitter>;
using Subject = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, ZLoss, ScaleExperts, double, Exec, Stack>;

Shape const shape{.tokens = 7, .hidden = 3, .experts = 6};

Stack nothing() {
  Stack stack;
  std::get<1>(stack.parts).strength = 0;
  std::get<3>(stack.parts).classes = 2;
  std::get<4>(stack.parts).epsilon = 0;
  return stack;
}

struct Stacked : Fixture<Subject> {
  OwnedVector<index_t, Exec> id{"id", 7};

  explicit Stacked(Stack const& stack, int k = 2)
      : Fixture(shape, {.router = {.selector = {.k = k}}, .adjust = stack}) {
    to_device(std::vector<index_t>{0, 1, 1, 0, 0, 1, 0}, id);
    more_inputs = [this](Subject::Inputs& in) { std::get<3>(in.adjust.parts).class_id = id; };
  }
  OwnedVector<double, Exec> delta() const { return std::get<0>(parameters.adjust.parts).delta; }
  OwnedVector<double, Exec> d_delta() const { return std::get<0>(gradients.adjust.parts).delta; }
  void set_delta(std::vector<double> const& values) { to_device(values, delta()); }
};

/// All numbers of some tensors.
Row numbers_of(Tensors const& tensors) {
  Row all;
  for (auto const& [name, tensor] : tensors)
    for (double const value : tensor.read()) all.push_back(value);
  return all;
}

TEST_CASE("a stack of adjustments: gradients, masks and inputs of each") {
  Stack stack;
  std::get<1>(stack.parts).strength = 0.75f;
  std::get<2>(stack.parts) = {.layers = 2, .begin = 2, .end = 4, .seed = 3};
  std::get<3>(stack.parts) = {.classes = 2, .alpha = 0.5f, .beta = 1.5f};
  std::get<4>(stack.parts).epsilon = 0.25f;
  Stacked fixture(stack);
  std::get<1>(stack.parts).set(fixture.exec, std::get<1>(fixture.state.adjust.parts), {1}, {4}, fixture.layer.sizes());
  fixture.fill(std::get<3>(fixture.state.adjust.parts).trail);
  fixture.mode = Mode::training;
  fixture.step = 3; // 3 + 3 * 1 / 2 = 4 of 6 experts are visible
  fixture.forward();
  auto const saved = fixture.layer.saved(fixture.tape);
  auto const mask = to_host(saved.adjust.mask);
  REQUIRE(std::count(mask.begin(), mask.end(), 1) == 4);
  for (auto const& token : fixture.result().choice)
    for (int const e : token) REQUIRE(mask[std::size_t(e)] == 1);
  REQUIRE(to_host(saved.logits) != to_host(saved.scored));
  check_gradients(fixture);

  std::vector<std::string> names;
  fixture.parameters.for_each([&](std::string const& name, auto const&) { names.push_back(name); });
  fixture.state.for_each([&](std::string const& name, auto const&) { names.push_back(name); });
  REQUIRE(names == std::vector<std::string>{"router.weight", "experts.scale", "adjust.delta", "adjust.direction",
                                            "adjust.trail"});
}

TEST_CASE("additive logits: zero changes no bit, a constant no weight") {
  Stacked fixture(nothing());
  fixture.set_delta({0, 0, 0, 0, 0, 0});
  fixture.forward();
  auto const saved = fixture.layer.saved(fixture.tape);
  auto const y = in_double(to_host(fixture.y));
  // floors of the trails, 1e-4 as a float, are the same for all: log(1e-4) is added to each logit
  auto const shift = std::log(double(1e-4f));
  auto logits = in_double(to_host(saved.scored));
  for (double& z : logits) z += shift;
  REQUIRE(in_double(to_host(saved.logits)) == logits);

  auto const choice = fixture.result().choice;
  fixture.set_delta({3, 3, 3, 3, 3, 3});
  fixture.forward();
  REQUIRE(fixture.result().choice == choice);
  CHECK(relative_error(in_double(to_host(fixture.y)), y) < 1e-13); // a softmax does not see the shift
}

TEST_CASE("additive logits: a step against the gradient lowers the objective, and flips a choice after the margin") {
  Stacked fixture(nothing());
  fixture.set_delta({0, 0, 0, 0, 0, 0});
  double const before = objective(fixture);
  fixture.backward();
  auto const gradient = to_host(fixture.d_delta());
  std::vector<double> step;
  for (double const g : gradient) step.push_back(-1e-3 * g);
  fixture.set_delta(step);
  CHECK(objective(fixture) < before);
  REQUIRE(norm(gradient) > 0);

  // expert 0 is preferred by a margin and wrong: y = -x, expert 1 would give x. d(objective)/d(delta) pushes 0 down
  double const margin = 0.5;
  Stacked toy(nothing(), 1);
  std::vector<double> weight(18, 0), scale(18, 0), x(21, 0), dy(21, 0);
  for (std::size_t t = 0; t < 7; ++t) x[3 * t] = 1, dy[3 * t] = -1; // objective = -y
  for (std::size_t e = 0; e < 6; ++e) weight[3 * e] = -20;          // the others are far
  weight[0] = margin, weight[3] = 0, scale[0] = -1, scale[3] = 1;
  to_device(weight, toy.parameters.router.weight), to_device(scale, toy.parameters.experts.scale);
  to_device(x, toy.x), to_device(dy, toy.dy);
  std::vector<double> delta(6, 0);
  int steps = 0;
  for (; steps < 1000; ++steps) {
    toy.set_delta(delta);
    toy.forward();
    if (toy.result().choice[0] == std::vector<int>{1}) break;
    REQUIRE(delta[1] - delta[0] <= margin);
    toy.backward();
    auto const g = to_host(toy.d_delta());
    for (std::size_t e = 0; e < 6; ++e) delta[e] -= 0.01 * g[e];
  }
  REQUIRE(steps < 1000);
  REQUIRE(delta[1] - delta[0] > margin);
}

TEST_CASE("additive logits: with a reset each request is a fresh run, and nothing but delta moves") {
  Stacked fixture(nothing());
  auto const reset = [&] { fixture.set_delta({0, 0, 0, 0, 0, 0}); };
  reset();
  auto const x = in_double(to_host(fixture.x));
  auto const weights = numbers_of(tensors_of(fixture.parameters));
  // five steps on a request's context, then its answer
  auto const answer = [&](double request) {
    auto shifted = x;
    for (std::size_t i = 0; i < x.size(); ++i) shifted[i] = std::cos(request * (double(i) + 1)) * x[i];
    to_device(shifted, fixture.x);
    for (int n = 0; n < 5; ++n) {
      fixture.forward(), fixture.backward();
      auto delta = to_host(fixture.delta());
      auto const g = to_host(fixture.d_delta());
      for (std::size_t e = 0; e < 6; ++e) delta[e] -= 0.1 * g[e];
      fixture.set_delta(delta);
    }
    fixture.forward();
    return flat(fixture.result().y);
  };
  auto const first = answer(1);
  reset();
  auto const second = answer(2);
  REQUIRE(norm(to_host(fixture.delta())) > 0);
  REQUIRE(answer(2) != second); // without a reset it is another one
  reset();
  REQUIRE(answer(2) == second); // the same whatever came before
  reset();
  REQUIRE(answer(1) == first);
  reset();
  REQUIRE(numbers_of(tensors_of(fixture.parameters)) == weights); // bit for bit
}

} // namespace layer_test
