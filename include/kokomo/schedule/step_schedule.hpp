// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_SCHEDULE_STEP_SCHEDULE_HPP
#define KOKOMO_SCHEDULE_STEP_SCHEDULE_HPP

#include <array>
#include <cstdint>

namespace kokomo::inline v0 {

/// A number that changes at given steps: `initial` before the first change, then each change's value from its step on.
/// Steps ascend. constexpr.
///
///     constexpr kokomo::StepSchedule<int, 3> experts{64, {{{10000, 128}, {20000, 192}, {30000, 256}}}};
///     static_assert(experts.at(15000) == 128);
template <class V, std::size_t Changes> struct StepSchedule {
  struct Change {
    std::uint64_t step;
    V value;
  };

  V initial{};
  std::array<Change, Changes> changes{};

  constexpr V at(std::uint64_t step) const {
    V value = initial;
    for (auto const& change : changes)
      if (step >= change.step) value = change.value;
    return value;
  }
  /// Whether steps ascend: what `at` takes for granted.
  constexpr bool ascends() const {
    for (std::size_t i = 1; i < Changes; ++i)
      if (changes[i].step <= changes[i - 1].step) return false;
    return true;
  }
  /// Whether the value never rises: a capacity that training makes scarcer.
  constexpr bool non_increasing() const {
    V value = initial;
    for (auto const& change : changes) {
      if (change.value > value) return false;
      value = change.value;
    }
    return true;
  }
};

/// ReXMoE's stepwise progressive scaling of one run in the paper: visible experts of a pool of 4 layers of 64.
inline constexpr StepSchedule<int, 3> rexmoe_stepwise{64, {{{10000, 128}, {20000, 192}, {30000, 256}}}};

/// Capacity factors of the released Nucleus-Image by layer, the end of its schedule; 0 for the dense layers.
constexpr float nucleus_image_capacity_factor(int layer) {
  return layer < 3 ? 0.0f : layer < 5 ? 4.0f : 2.0f;
}

} // namespace kokomo::inline v0

#endif
