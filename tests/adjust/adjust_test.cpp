// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <adjust/adjusted.hpp>

#include <kokomo/adjust/expert_mask_schedule.hpp>
#include <kokomo/adjust/logit_jitter.hpp>
#include <kokomo/adjust/pheromone.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/router/top_k.hpp>

#include <numeric>

namespace adjust_test {

using namespace kokomo;
using namespace kokomo::test;

std::vector<index_t> visible_of(std::vector<index_t> const& mask) {
  std::vector<index_t> experts;
  for (std::size_t e = 0; e < mask.size(); ++e)
    if (mask[e] != 0) experts.push_back(index_t(e));
  return experts;
}

TEST_CASE("the schedule of visible experts is the published one") {
  constexpr ExpertMaskSchedule schedule{.layers = 4, .begin = 10000, .end = 30000};
  static_assert(schedule.visible_experts(0, 256) == 64 && schedule.visible_experts(10000, 256) == 64);
  static_assert(schedule.visible_experts(15000, 256) == 112);
  static_assert(schedule.visible_experts(20000, 256) == 160);
  static_assert(schedule.visible_experts(25000, 256) == 208);
  static_assert(schedule.visible_experts(30000, 256) == 256 && schedule.visible_experts(1000000, 256) == 256);
  for (std::uint64_t t = 0; t < 32000; t += 37)
    REQUIRE(schedule.visible_experts(t, 256) <= schedule.visible_experts(t + 37, 256));
}

TEST_CASE("random masks leave N_t experts, by seed and step, and no masked expert is chosen") {
  auto const logits = some_logits(20, 12);
  ExpertMaskSchedule const schedule{.layers = 3, .begin = 10, .end = 30, .seed = 5};
  Adjusted<ExpertMaskSchedule> adjusted(schedule, logits, 4);
  std::vector<std::vector<index_t>> seen;
  for (std::uint64_t const step : {0, 1, 10, 20, 25, 30, 40}) {
    adjusted.step = step;
    REQUIRE(adjusted(logits) == logits); // logits stay as they are: a softmax is still one over all experts
    auto const visible = visible_of(adjusted.mask());
    REQUIRE(index_t(visible.size()) == schedule.visible_experts(step, 12));
    for (auto const& token : adjusted.chosen())
      for (int const e : token) REQUIRE(std::find(visible.begin(), visible.end(), e) != visible.end());
    seen.push_back(visible);
  }
  REQUIRE(seen[0] != seen[1]);
  Adjusted<ExpertMaskSchedule> elsewhere(schedule, some_logits(3, 12, 1), 4); // another batch: the same mask
  (void)elsewhere(some_logits(3, 12, 1));
  REQUIRE(visible_of(elsewhere.mask()) == seen[0]);
  ExpertMaskSchedule other = schedule;
  other.seed = 6;
  Adjusted<ExpertMaskSchedule> another(other, logits, 4);
  (void)another(logits);
  REQUIRE(visible_of(another.mask()) != seen[0]);
}

TEST_CASE("a mask of the local experts is the layer without a pool, bit for bit") {
  auto const pool = some_logits(15, 12);
  Rows local;
  for (auto const& row : pool) local.emplace_back(row.begin() + 4, row.begin() + 8);
  RoutingFixture<> vanilla(local);
  vanilla.select<SoftmaxScore>(TopK<>{.k = 2});
  vanilla.weigh(SoftmaxGate{});

  Adjusted<ExpertMaskSchedule> adjusted(
      {.visible = VisibleExperts::local, .effect = MaskEffect::logits, .layers = 3, .own = 1, .begin = 1, .end = 9},
      pool, 2);
  (void)adjusted(pool);
  REQUIRE(visible_of(adjusted.mask()) == std::vector<index_t>{4, 5, 6, 7});
  auto chosen = adjusted.chosen();
  adjusted.fixture.weigh(SoftmaxGate{});
  for (auto& token : chosen)
    for (int& e : token) e -= 4;
  REQUIRE(chosen == vanilla.chosen());
  REQUIRE(adjusted.fixture.weights() == vanilla.weights());
  Rows const ones(15, Row(12, 1.0));
  for (auto const& row : adjusted.gradient(ones)) // masked logits pass nothing
    REQUIRE(row == Row{0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0});

  adjusted.step = 5; // floor((1 + 2 * 4 / 8) 4) = 8: those that follow come into sight, around the end
  (void)adjusted(pool);
  REQUIRE(visible_of(adjusted.mask()) == std::vector<index_t>{4, 5, 6, 7, 8, 9, 10, 11});
  adjusted.step = 7; // 10
  (void)adjusted(pool);
  REQUIRE(visible_of(adjusted.mask()) == std::vector<index_t>{0, 1, 4, 5, 6, 7, 8, 9, 10, 11});
}

TEST_CASE("logit jitter multiplies by U(1 - epsilon, 1 + epsilon), in training") {
  double const epsilon = 0.25; // exact as a float
  Rows const ones(4000, Row(3, 1.0));
  Adjusted<LogitJitter> adjusted({.epsilon = 0.25f, .seed = 3}, ones);
  REQUIRE(adjusted(ones) == ones); // inference
  adjusted.mode = Mode::training;
  auto const first = flat(adjusted(ones));
  REQUIRE(flat(adjusted(ones)) == first);
  double const n = double(first.size()), mean = std::accumulate(first.begin(), first.end(), 0.0) / n;
  double variance = 0;
  for (double const z : first) {
    REQUIRE((z > 1 - epsilon && z < 1 + epsilon));
    variance += (z - mean) * (z - mean) / n;
  }
  // four standard deviations of the mean, and of the variance, of n uniform draws: seeds are fixed
  double const deviation = epsilon / std::sqrt(3.0);
  CHECK(std::abs(mean - 1) < 4 * deviation / std::sqrt(n));
  CHECK(std::abs(variance / (deviation * deviation) - 1) < 4 * std::sqrt(0.8 / n));
  adjusted.step = 1;
  REQUIRE(flat(adjusted(ones)) != first);
  auto const logits = some_logits(3, 4);
  Adjusted<LogitJitter> few({.epsilon = 0.25f}, logits);
  few.mode = Mode::training;
  check_adjust_gradient(few, logits);
}

/// Class ids, acceptance and cost of every token, and the update.
struct Ants : Adjusted<Pheromone> {
  OwnedVector<index_t, Exec> id, accepted;
  OwnedVector<double, Exec> cost;

  Ants(Pheromone const& p, Rows const& logits, std::vector<index_t> const& ids)
      : Adjusted(p, logits), id("id", ids.size()), accepted("accepted", ids.size()), cost("cost", ids.size()) {
    to_device(ids, id);
    inputs.class_id = id;
  }
  void update(std::vector<index_t> const& judged, std::vector<double> const& costs) {
    to_device(judged, accepted), to_device(costs, cost);
    policy.update<double>(fixture.exec, state, fixture.assignment, inputs, accepted, cost);
    fixture.exec.fence();
  }
  Rows trail() const { return in_rows(in_double(to_host(state.trail)), state.trail.extent(0)); }
};

TEST_CASE("pheromone: z' = beta z + alpha log(sum of w tau), with a floor and its gradient") {
  auto const logits = some_logits(4, 3);
  Pheromone const settings{.classes = 2, .alpha = 0.5f, .beta = 2, .floor = 0.125f};
  Adjusted<Pheromone> adjusted(settings, logits);
  OwnedMatrix<double, Exec> const weight("weight", 4, 2);
  std::vector<double> const w{1, 0, 0.25, 0.75, 0, 1, 0.5, 0.5}, tau{2, 0, 0.5, 1, 3, 0.0625};
  to_device(w, weight), to_device(tau, adjusted.state.trail);
  adjusted.inputs.class_weight = weight;
  auto const out = adjusted(logits);
  for (std::size_t t = 0; t < 4; ++t)
    for (std::size_t e = 0; e < 3; ++e) {
      double const sum = w[2 * t] * std::max(tau[e], 0.125) + w[2 * t + 1] * std::max(tau[3 + e], 0.125);
      REQUIRE(out[t][e] == Approx(2 * logits[t][e] + 0.5 * std::log(sum)).epsilon(1e-12));
    }
  check_adjust_gradient(adjusted, logits);
}

TEST_CASE("pheromone: rejected answers change nothing, trails decay and are strengthened by the formula") {
  Rows const logits{{3, 0}, {0, 3}, {3, 0}}; // experts 0, 1, 0
  Pheromone const settings{.classes = 2, .evaporation = 0.25f, .quality = 2, .epsilon = 0.5f, .floor = 0.0078125f};
  Ants ants(settings, logits, {0, 1, 7});
  to_device(std::vector<double>{1, 1, 1, 1}, ants.state.trail);
  (void)ants(logits);
  REQUIRE(ants.fixture.status().invalid_ids == 1); // class 7
  (void)ants.chosen();
  ants.update({0, 0, 0}, {1, 1, 1});
  REQUIRE(ants.trail() == Rows{{1, 1}, {1, 1}});
  ants.update({1, 0, 1}, {0.5, 9, 9}); // token 0: 2 / (0.5 + 0.5); token 2 belongs to no class
  REQUIRE(ants.trail() == Rows{{2.75, 0.75}, {0.75, 0.75}});

  Pheromone forgetting = settings;
  forgetting.quality = 0;
  Ants empty(forgetting, logits, {0, 0, 0});
  to_device(std::vector<double>{1, 1, 1, 1}, empty.state.trail);
  (void)empty(logits), (void)empty.chosen();
  for (int n = 1; n <= 30; ++n) {
    empty.update({1, 1, 1}, {0, 0, 0});
    double const expected = std::max(std::pow(0.75, n), 0.0078125); // exact: a power of 3/4 is a double
    REQUIRE(empty.trail()[0] == Row{expected, expected});
  }
}

TEST_CASE("two classes with opposite best experts: a memory by class reaches both, a single one does not") {
  std::size_t const tokens = 64;
  std::vector<index_t> ids(tokens);
  for (std::size_t t = 0; t < tokens; ++t) ids[t] = index_t(t % 2);
  auto const right = [&](int classes) {
    Pheromone const settings{.classes = classes, .alpha = 2, .evaporation = 0.2f, .quality = 0.01f};
    Ants ants(settings, some_logits(tokens, 2), classes == 2 ? ids : std::vector<index_t>(tokens, 0));
    double share = 0;
    for (int n = 0; n < 40; ++n) {
      (void)ants(some_logits(tokens, 2, n));
      auto const chosen = ants.chosen();
      std::vector<double> cost;
      share = 0;
      for (std::size_t t = 0; t < tokens; ++t) {
        bool const best = chosen[t][0] == ids[t]; // class c is best served by expert c
        share += best ? 1.0 / double(tokens) : 0;
        cost.push_back(best ? 0.1 : 10);
      }
      ants.update(std::vector<index_t>(tokens, 1), cost);
    }
    return share;
  };
  // 64 tokens of logits within +-2; a trail that is stronger by exp(4 / alpha) decides against any of them
  CHECK(right(2) > 0.9);
  CHECK(right(1) < 0.75);
}

template <class Policy> int refused(Policy const& policy) {
  Sizes sizes;
  sizes.experts = 6;
  try {
    policy.check(sizes);
  } catch (Error const& error) {
    return error.id();
  }
  return 0;
}

TEST_CASE("settings that make no sense are refused") {
  REQUIRE(refused(ExpertMaskSchedule{.layers = 3, .own = 2, .begin = 4, .end = 4}) == 0);
  REQUIRE(refused(ExpertMaskSchedule{.layers = 4}) == 103);
  REQUIRE(refused(ExpertMaskSchedule{.layers = 0}) == 103);
  REQUIRE(refused(ExpertMaskSchedule{.layers = 3, .own = 3}) == 103);
  REQUIRE(refused(ExpertMaskSchedule{.begin = 2, .end = 1}) == 106);
  REQUIRE(refused(Pheromone{}) == 0);
  REQUIRE(refused(Pheromone{.classes = 0}) == 101);
  REQUIRE(refused(Pheromone{.evaporation = 1.5f}) == 106);
  REQUIRE(refused(Pheromone{.quality = -1}) == 106);
  REQUIRE(refused(Pheromone{.epsilon = 0}) == 106);
  REQUIRE(refused(Pheromone{.floor = 0}) == 106);
  REQUIRE(refused(LogitJitter{.epsilon = 1}) == 106);
  REQUIRE(refused(LogitJitter{.epsilon = NAN}) == 106);

  Pheromone const pheromone{.classes = 2};
  Sizes sizes;
  sizes.tokens = 3;
  inputs_t<Pheromone, double, Exec> inputs;
  auto const id = [&] {
    try {
      pheromone.check_inputs<double, Exec>(inputs, sizes);
    } catch (Error const& error) {
      return error.id();
    }
    return 0;
  };
  REQUIRE(id() == 203);
  OwnedVector<index_t, Exec> const ids("ids", 3);
  OwnedMatrix<double, Exec> const weights("weights", 3, 1);
  inputs.class_id = ids;
  REQUIRE(id() == 0);
  inputs.class_weight = weights;
  REQUIRE(id() == 203); // one of both
  inputs.class_id = {};
  REQUIRE(id() == 201); // [3, 2] is expected
}

} // namespace adjust_test
