// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BENCH_SUPPORT_TIMING_HPP
#define KOKOMO_BENCH_SUPPORT_TIMING_HPP

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

namespace bench {

/// Milliseconds of many calls.
struct Timing {
  std::vector<double> ms;

  /// The value below which a share `q` of the calls lies.
  double quantile(double q) const {
    if (ms.empty()) return 0;
    std::vector<double> sorted = ms;
    std::sort(sorted.begin(), sorted.end());
    return sorted[std::min(sorted.size() - 1, static_cast<std::size_t>(q * static_cast<double>(sorted.size())))];
  }
  double median() const { return quantile(0.5); }
};

/// Calls `call()` once to warm up, then until `seconds` have passed, at least `least` and at most 2000 times.
template <class Call> Timing time_calls(double seconds, int least, Call&& call) {
  using Clock = std::chrono::steady_clock;
  call();
  Timing timing;
  auto const end = Clock::now() + std::chrono::duration<double>(seconds);
  for (auto before = Clock::now(); int(timing.ms.size()) < least || (before < end && timing.ms.size() < 2000);) {
    call();
    auto const after = Clock::now();
    timing.ms.push_back(std::chrono::duration<double, std::milli>(after - before).count());
    before = after;
  }
  return timing;
}

} // namespace bench

#endif
