// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <kokomo/adjust/expert_mask_schedule.hpp>
#include <kokomo/schedule/depth_schedule.hpp>
#include <kokomo/schedule/step_schedule.hpp>

#include <cmath>
#include <numeric>
#include <vector>

namespace {

using namespace kokomo;

constexpr DepthShape shapes[] = {DepthShape::uniform, DepthShape::descending, DepthShape::ascending,
                                 DepthShape::pyramid, DepthShape::valley,     DepthShape::wave};

std::vector<int> table(DepthSchedule const& schedule, int layers) {
  std::vector<int> numbers(std::size_t(layers), -1);
  schedule.fill(numbers);
  return numbers;
}
bool mirrored(std::vector<int> const& numbers) {
  return std::equal(numbers.begin(), numbers.end(), numbers.rbegin());
}

static_assert(DepthSchedule{.shape = DepthShape::descending, .least = 2, .most = 6}.table<5>() ==
              std::array{6, 5, 4, 3, 2});
static_assert(DepthSchedule{.shape = DepthShape::pyramid, .least = 1, .most = 3}.table<5>() ==
              std::array{1, 2, 3, 2, 1});
static_assert(DepthSchedule{.shape = DepthShape::descending, .least = 1, .most = 3}.table<3>(12) ==
              std::array{6, 4, 2});
static_assert(DepthSchedule{.shape = DepthShape::wave, .least = 0, .most = 10}.table<5>() ==
              std::array{5, 10, 5, 0, 5});

TEST_CASE("depth schedules hit their end points, are monotone or symmetric as named, and round the formula") {
  for (int const layers : {2, 3, 8, 31, 48})
    for (auto const& ends : {std::pair{1, 8}, std::pair{4, 64}, std::pair{5, 5}, std::pair{0, 3}}) {
      int const least = ends.first, most = ends.second;
      auto const of = [&](DepthShape shape) { return table({.shape = shape, .least = least, .most = most}, layers); };
      REQUIRE(of(DepthShape::uniform) == std::vector<int>(std::size_t(layers), most));
      auto const down = of(DepthShape::descending), up = of(DepthShape::ascending);
      REQUIRE((down.front() == most && down.back() == least));
      REQUIRE(std::is_sorted(down.rbegin(), down.rend()));
      REQUIRE((up.front() == least && up.back() == most));
      REQUIRE(std::is_sorted(up.begin(), up.end()));
      auto const pyramid = of(DepthShape::pyramid), valley = of(DepthShape::valley);
      REQUIRE((mirrored(pyramid) && mirrored(valley)));
      REQUIRE((pyramid.front() == least && valley.front() == most));
      if (layers % 2 == 1)
        REQUIRE((pyramid[std::size_t(layers / 2)] == most && valley[std::size_t(layers / 2)] == least));
      for (int const l : {0, layers / 3, layers - 1}) {
        double const t = double(l) / (layers - 1);
        double const w[] = {1,
                            1 - t,
                            t,
                            1 - std::abs(2 * t - 1),
                            std::abs(2 * t - 1),
                            (1 + std::sin(2 * std::acos(-1.0) * 1.5 * t)) / 2};
        for (std::size_t s = 0; s < 6; ++s) {
          DepthSchedule const schedule{.shape = shapes[s], .least = least, .most = most, .waves = 1.5};
          REQUIRE(std::abs(schedule.at(l, layers) - (least + (most - least) * w[s])) <= 0.5 + 1e-9);
        }
      }
    }
}

TEST_CASE("depth schedules of one layer") {
  for (auto const shape : shapes) {
    int const number = DepthSchedule{.shape = shape, .least = 2, .most = 9}.at(0, 1);
    REQUIRE((number >= 2 && number <= 9));
    int budgeted[1];
    DepthSchedule{.shape = shape, .least = 2, .most = 9}.fill(budgeted, 7);
    REQUIRE(budgeted[0] == 7);
  }
  DepthSchedule{}.fill({}); // no layers, nothing to write
}

TEST_CASE("budget-preserving schedules have exactly the budget and keep the order of the shape") {
  for (auto const shape : shapes)
    for (int const layers : {1, 2, 7, 24})
      for (int const budget : {layers, 8 * layers, 8 * layers + 3, 1000}) {
        DepthSchedule const schedule{.shape = shape, .least = 2, .most = 9};
        std::vector<int> numbers(std::size_t(layers), -1);
        schedule.fill(numbers, budget);
        REQUIRE(std::accumulate(numbers.begin(), numbers.end(), 0) == budget);
        if (shape == DepthShape::descending) REQUIRE(std::is_sorted(numbers.rbegin(), numbers.rend()));
        if (shape == DepthShape::ascending) REQUIRE(numbers.back() - numbers.front() >= 0);
        if (shape == DepthShape::uniform) REQUIRE(numbers.front() - numbers.back() <= 1);
      }
}

TEST_CASE("depth schedules refuse what makes no sense") {
  REQUIRE_THROWS_AS((DepthSchedule{.least = 3, .most = 2}.at(0, 2)), Error);
  REQUIRE_THROWS_AS((DepthSchedule{.least = -1, .most = 2}.at(0, 2)), Error);
  REQUIRE_THROWS_AS((DepthSchedule{}.at(2, 2)), Error);
  int numbers[2];
  REQUIRE_THROWS_AS((DepthSchedule{}.fill(numbers, -1)), Error);
  REQUIRE_THROWS_AS((DepthSchedule{.least = 0, .most = 0}.fill(numbers, 3)), Error);
}

TEST_CASE("step schedules: ReXMoE's table, linear and stepwise") {
  static_assert(rexmoe_stepwise.ascends() && !rexmoe_stepwise.non_increasing());
  static_assert(rexmoe_stepwise.at(0) == 64 && rexmoe_stepwise.at(9999) == 64);
  static_assert(rexmoe_stepwise.at(10000) == 128 && rexmoe_stepwise.at(25000) == 192);
  static_assert(rexmoe_stepwise.at(1000000) == 256);
  constexpr ExpertMaskSchedule linear{.layers = 4, .begin = 10000, .end = 30000};
  std::vector<int> visible;
  for (std::uint64_t const step : {0, 10000, 15000, 20000, 25000, 30000, 50000})
    visible.push_back(linear.visible_experts(step, 256));
  REQUIRE(visible == std::vector<int>{64, 64, 112, 160, 208, 256, 256});
}

TEST_CASE("Nucleus-Image's released capacity factors, and a schedule that ends in them") {
  std::vector<float> factors;
  for (int layer = 0; layer < 32; ++layer) factors.push_back(nucleus_image_capacity_factor(layer));
  REQUIRE((factors[0] == 0 && factors[2] == 0 && factors[3] == 4 && factors[4] == 4 && factors[5] == 2 &&
           factors[31] == 2));
  StepSchedule<float, 2> const stages{8, {{{1000, 4}, {5000, nucleus_image_capacity_factor(7)}}}};
  REQUIRE(stages.non_increasing());
  REQUIRE((stages.at(999) == 8 && stages.at(1000) == 4 && stages.at(5000) == 2));
}

} // namespace
