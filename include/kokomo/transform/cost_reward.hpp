// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TRANSFORM_COST_REWARD_HPP
#define KOKOMO_TRANSFORM_COST_REWARD_HPP

#include <kokomo/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace kokomo::inline v0 {

/// How cheap something was among what it has cost lately:
///
///     cheapness = 1 - clip((sqrt(cost) - q05) / (q95 - q05), 0, 1)
///
/// with the 5th and 95th percentile of the roots of the last `length` costs, linear between neighbours. One half where the
/// two are equal, or nothing is known yet. On the host.
/// \throws kokomo::Error 106 for a length of zero, or a cost that is negative or no number
class CostWindow {
public:
  explicit CostWindow(std::size_t length = 1000) : m_length(length) {
    detail::require(length >= 1, 106, "CostWindow length = 0, expected >= 1");
  }

  void add(double cost) {
    double const root = root_of(cost);
    if (m_roots.size() < m_length)
      m_roots.push_back(root);
    else
      m_roots[m_next] = root;
    m_next = (m_next + 1) % m_length;
  }

  double cheapness(double cost) const {
    double const root = root_of(cost);
    if (m_roots.empty()) return 0.5;
    auto sorted = m_roots;
    std::sort(sorted.begin(), sorted.end());
    double const low = percentile(sorted, 0.05), high = percentile(sorted, 0.95);
    if (!(high > low)) return 0.5;
    return 1 - std::clamp((root - low) / (high - low), 0.0, 1.0);
  }

private:
  static double root_of(double cost) {
    detail::require(cost >= 0, 106, "cost = ", cost, ", expected >= 0");
    return std::sqrt(cost);
  }
  static double percentile(std::vector<double> const& sorted, double share) {
    double const position = share * double(sorted.size() - 1);
    auto const below = std::size_t(position);
    auto const above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (position - double(below)) * (sorted[above] - sorted[below]);
  }

  std::size_t m_length, m_next = 0;
  std::vector<double> m_roots; // a ring once it is full
};

/// What an answer is worth if being cheap counts: `metric` and `format` earn, cheapness takes a share of what was earned.
/// Something malformed costs one and earns nothing; something wrong (metric 0) earns its format, however cheap it was.
/// Source: Router-R1 (docs/policies/transform/cost_reward.md).
/// \throws kokomo::Error 106 unless 0 <= weight <= 1
struct CostReward {
  double weight = 0; ///< alpha, share of cheapness

  /// \param[in] metric 0 .. 1: is the answer right
  /// \param[in] format what its form earns
  /// \param[in] cheapness 0 .. 1: CostWindow::cheapness
  double operator()(bool well_formed, double metric, double format, double cheapness) const {
    detail::require(weight >= 0 && weight <= 1, 106, "CostReward weight = ", weight, ", expected 0 to 1");
    if (!well_formed) return -1;
    double const earned = metric + format;
    return metric == 0 ? earned : earned * (1 - weight) + weight * cheapness;
  }
};

} // namespace kokomo::inline v0

#endif
