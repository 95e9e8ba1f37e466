// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <kokomo/schedule/depth_schedule.hpp>
#include <kokomo/schedule/least_loaded.hpp>
#include <kokomo/schedule/step_schedule.hpp>

TEST_CASE("depth_schedule") {
  // [snippet:depth_schedule]
  constexpr kokomo::DepthSchedule experts{.shape = kokomo::DepthShape::descending, .least = 4, .most = 16};
  static_assert(experts.table<4>() == std::array{16, 12, 8, 4});
  static_assert(experts.table<4>(/*budget*/ 30) == std::array{12, 9, 6, 3}); // as many as 7.5 in every layer
  REQUIRE(experts.at(/*layer*/ 3, /*layers*/ 7) == 10);
  // [/snippet]
}

TEST_CASE("step_schedule") {
  // [snippet:step_schedule]
  // A capacity factor that training lowers: 8, then 4, then what Nucleus-Image was released with in its later layers.
  constexpr float last = kokomo::nucleus_image_capacity_factor(/*layer*/ 10);
  constexpr kokomo::StepSchedule<float, 2> capacity{8, {{{20000, 4}, {60000, last}}}};
  static_assert(capacity.ascends() && capacity.non_increasing());
  REQUIRE(capacity.at(0) == 8);
  REQUIRE(capacity.at(20000) == 4);
  REQUIRE(capacity.at(100000) == 2);
  // [/snippet]
}

TEST_CASE("least_loaded") {
  // [snippet:least_loaded]
  // Four experts on two devices, and all but ten rows for the first one.
  std::vector<kokomo::offset_t> const loads{70, 4, 3, 3};
  auto const plan = kokomo::LeastLoaded{.devices = 2}.plan(loads);
  REQUIRE(plan.load == std::vector<kokomo::offset_t>{40, 40});
  REQUIRE(plan.rows_of[0][0] == kokomo::DeviceRows{.device = 0, .begin = 0, .end = 36}); // expert 1 stays, too
  REQUIRE(plan.rows_of[0][1] == kokomo::DeviceRows{.device = 1, .begin = 36, .end = 70});
  REQUIRE(plan.transfers == 1); // of the weights of expert 0
  // [/snippet]
}
