// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_SCHEDULE_DEPTH_SCHEDULE_HPP
#define KOKOMO_SCHEDULE_DEPTH_SCHEDULE_HPP

#include <kokomo/error.hpp>

#include <array>
#include <cstdint>
#include <span>

namespace kokomo::inline v0 {

/// How a number (experts, experts a token, width) changes over the depth of a model, t = l / (L - 1) from 0 to 1.
enum class DepthShape {
  uniform,    ///< 1
  descending, ///< 1 - t
  ascending,  ///< t
  pyramid,    ///< 1 - |2 t - 1|
  valley,     ///< |2 t - 1|
  wave        ///< (1 + sin(2 pi waves t)) / 2
};

namespace detail {

/// sin(2 pi turns), usable while compiling; to 1e-13.
constexpr double sine_of_turns(double turns) {
  auto const whole = static_cast<std::int64_t>(turns < 0 ? turns - 0.5 : turns + 0.5);
  double const x = 6.283185307179586477 * (turns - static_cast<double>(whole)); // in [-pi, pi]
  double term = x, sum = x;
  for (int n = 1; n < 18; ++n) {
    term *= -x * x / ((2 * n) * (2 * n + 1));
    sum += term;
  }
  return sum;
}

} // namespace detail

/// One number a layer, between `least` and `most`: round(least + (most - least) w), w by the shape, halves upwards. With
/// a budget the numbers keep the shape and have exactly the budget as sum: scaled, rounded down, and what is left to the
/// largest remainders, the lower layer first. All constexpr.
///
///     constexpr auto experts = kokomo::DepthSchedule{.shape = kokomo::DepthShape::descending, .least = 4, .most = 16}.table<12>();
///
/// RECONSTRUCTED: DynaMoE (arXiv 2603.01697) compares six schedules over depth; descending, ascending, pyramid, wave and
/// uniform are named in what was read, without formulas. The formulas, `valley` and the budget are ours.
struct DepthSchedule {
  DepthShape shape = DepthShape::uniform;
  int least = 1; ///< >= 0
  int most = 1;  ///< >= least
  double waves = 1;

  /// \throws kokomo::Error 106 unless 0 <= least <= most and 0 <= layer < layers
  constexpr int at(int layer, int layers) const {
    check(layer, layers);
    if (shape == DepthShape::wave) return static_cast<int>(value(layer, layers) + 0.5);
    std::int64_t const n = steps(layers), span = most - least; // in integers: what mirrors is equal
    return static_cast<int>(least + (2 * span * numerator(layer, layers) + n) / (2 * n));
  }

  constexpr void fill(std::span<int> numbers) const {
    auto const layers = static_cast<int>(numbers.size());
    for (int l = 0; l < layers; ++l) numbers[static_cast<std::size_t>(l)] = at(l, layers);
  }
  template <std::size_t Layers> constexpr std::array<int, Layers> table() const {
    std::array<int, Layers> numbers{};
    fill(numbers);
    return numbers;
  }

  /// \throws kokomo::Error 106 for a negative budget, or one above zero where all numbers are zero
  constexpr void fill(std::span<int> numbers, int budget) const {
    auto const layers = static_cast<int>(numbers.size());
    double sum = 0;
    for (int l = 0; l < layers; ++l) check(l, layers), sum += value(l, layers);
    if (budget < 0 || (budget > 0 && !(sum > 0)))
      detail::fail(106, "DepthSchedule budget = ", budget, ", expected >= 0, and 0 if all numbers are zero");
    auto const scaled = [&](int l) { return sum > 0 ? value(l, layers) * budget / sum : 0.0; };
    int left = budget;
    for (int l = 0; l < layers; ++l) {
      auto const whole = static_cast<int>(scaled(l) + 1e-9); // 3 - 1e-16 is 3
      numbers[static_cast<std::size_t>(l)] = whole;
      left -= whole;
    }
    for (; left > 0; --left) { // to the largest remainder: a layer that got one more has none left
      int best = 0;
      double most_left = -2;
      for (int l = 0; l < layers; ++l) {
        double const remainder = scaled(l) - numbers[static_cast<std::size_t>(l)];
        if (remainder > most_left + 1e-9) best = l, most_left = remainder;
      }
      ++numbers[static_cast<std::size_t>(best)];
    }
  }
  template <std::size_t Layers> constexpr std::array<int, Layers> table(int budget) const {
    std::array<int, Layers> numbers{};
    fill(numbers, budget);
    return numbers;
  }

private:
  constexpr void check(int layer, int layers) const {
    if (least < 0 || most < least)
      detail::fail(106, "DepthSchedule least = ", least, ", most = ", most, ", expected 0 <= least <= most");
    if (layer < 0 || layer >= layers)
      detail::fail(106, "DepthSchedule layer = ", layer, ", expected 0 to ", layers - 1);
  }
  static constexpr std::int64_t steps(int layers) { return layers > 1 ? layers - 1 : 1; }
  /// w (layers - 1)
  constexpr std::int64_t numerator(int layer, int layers) const {
    std::int64_t const n = steps(layers), middle = 2 * layer - n, off = middle < 0 ? -middle : middle;
    switch (shape) {
    case DepthShape::descending:
      return n - layer;
    case DepthShape::ascending:
      return layer;
    case DepthShape::pyramid:
      return n - off;
    case DepthShape::valley:
      return off;
    default:
      return n;
    }
  }
  /// Before rounding.
  constexpr double value(int layer, int layers) const {
    double const t = static_cast<double>(layer) / static_cast<double>(steps(layers));
    double const w = shape == DepthShape::wave
                         ? (1 + detail::sine_of_turns(waves * t)) / 2
                         : static_cast<double>(numerator(layer, layers)) / static_cast<double>(steps(layers));
    return least + (most - least) * w;
  }
};

} // namespace kokomo::inline v0

#endif
