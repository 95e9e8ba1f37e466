// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_SCHEDULE_LEAST_LOADED_HPP
#define KOKOMO_SCHEDULE_LEAST_LOADED_HPP

#include <kokomo/error.hpp>
#include <kokomo/types.hpp>

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

namespace kokomo::inline v0 {

/// Rows [begin, end) of an expert's, in the order in which all devices together hold them, and who computes them.
struct DeviceRows {
  index_t device = 0;
  offset_t begin = 0, end = 0;

  bool operator==(DeviceRows const&) const = default;
};

/// Who computes which rows of which expert.
struct DevicePlan {
  std::vector<std::vector<DeviceRows>> rows_of; ///< [experts], each cut into [0, load) without gaps
  std::vector<offset_t> load;                   ///< [devices] rows
  offset_t transfers = 0;                       ///< experts that visit a device other than their own, counted a device

  /// The fullest device over the mean: 1 for perfect balance.
  double imbalance() const {
    auto const total = std::accumulate(load.begin(), load.end(), offset_t(0));
    if (total == 0) return 1;
    return double(*std::max_element(load.begin(), load.end())) * double(load.size()) / double(total);
  }
};

/// What the paper and its code do differently.
enum class LeastLoadedForm {
  paper, ///< guards by the experts' loads, capacity of the exact mean, the least loaded device anew for each piece
  code ///< guards by the devices' loads, capacity of the mean rounded down, devices in one order for an expert that leaves whole
};

/// Least-loaded expert parallelism: experts live on devices in runs of equal length; where that loads one device too much,
/// rows of its experts are computed elsewhere, and the expert's weights go there. Experts are placed by descending load; a
/// device counts with what it was given and what its own experts still wait for. A plan is a function of the loads alone, so
/// that all devices agree on it, and it changes where a row is computed, never its value.
///
///     auto const plan = kokomo::LeastLoaded{.devices = 8}.plan(rows_of_each_expert);
///
/// Source: LLEP (arXiv 2601.17111) and SalesforceAIResearch/LeastLoadedEP (docs/policies/schedule/least_loaded.md).
struct LeastLoaded {
  index_t devices = 1;     ///< >= 1, a divisor of the experts
  double capacity = 1;     ///< alpha > 0: rows of a device, of the mean
  offset_t least_rows = 1; ///< m >= 1: fewer are not worth another device, unless they are all that is left
  double guard = 0;        ///< lambda >= 0: below this imbalance every expert stays where it is
  LeastLoadedForm form = LeastLoadedForm::paper;

  /// Ties go to the smaller expert and the smaller device. Host arithmetic, O(experts log experts + pieces * devices).
  /// \param[in] loads [experts] rows of each expert, over all devices
  /// \throws kokomo::Error 103 unless devices divide the experts, 106 for settings or loads out of range
  DevicePlan plan(std::span<offset_t const> loads) const {
    check(loads);
    DevicePlan planned;
    planned.rows_of.resize(loads.size());
    planned.load.assign(std::size_t(devices), 0);
    auto const total = std::accumulate(loads.begin(), loads.end(), offset_t(0));
    if (total == 0) return planned;
    std::vector<offset_t> pending(std::size_t(devices), 0); // of a device's own experts
    for (std::size_t e = 0; e < loads.size(); ++e) pending[own(e, loads)] += loads[e];
    bool const stays = imbalance(loads, pending) < guard;
    offset_t const most = stays ? total : places(total);

    std::vector<std::size_t> order(loads.size());
    std::iota(order.begin(), order.end(), std::size_t(0));
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return loads[a] > loads[b]; });
    for (auto const e : order) {
      if (loads[e] == 0) continue;
      auto const home = own(e, loads);
      pending[home] -= loads[e];
      place(planned, pending, e, home, loads[e], most);
    }
    return planned;
  }

private:
  std::size_t own(std::size_t expert, std::span<offset_t const> loads) const {
    return expert / (loads.size() / std::size_t(devices));
  }

  void check(std::span<offset_t const> loads) const {
    detail::require(devices >= 1 && !loads.empty() && loads.size() % std::size_t(devices) == 0, 103,
                    "LeastLoaded devices = ", devices, ", expected a divisor of the ", loads.size(), " experts");
    detail::require(capacity > 0, 106, "LeastLoaded capacity = ", capacity, ", expected > 0");
    detail::require(least_rows >= 1, 106, "LeastLoaded least_rows = ", least_rows, ", expected at least 1");
    detail::require(guard >= 0, 106, "LeastLoaded guard = ", guard, ", expected >= 0");
    for (offset_t const load : loads) detail::require(load >= 0, 106, "a load of ", load, ", expected >= 0");
  }

  double imbalance(std::span<offset_t const> of_expert, std::span<offset_t const> of_device) const {
    auto const by = form == LeastLoadedForm::paper ? of_expert : of_device;
    auto const total = std::accumulate(by.begin(), by.end(), offset_t(0));
    return double(*std::max_element(by.begin(), by.end())) * double(by.size()) / double(total);
  }

  offset_t places(offset_t total) const {
    double const mean = form == LeastLoadedForm::paper ? double(total) / devices : double(total / devices);
    if (mean == 0) return total; // the code's way with fewer rows than devices
    return std::max(offset_t(capacity * mean), offset_t(1));
  }

  /// Gives the rows of one expert away.
  void place(DevicePlan& planned, std::vector<offset_t> const& pending, std::size_t expert, std::size_t home,
             offset_t rows, offset_t most) const {
    auto& pieces = planned.rows_of[expert];
    offset_t begin = 0;
    auto const give = [&](std::size_t device, offset_t n) {
      bool const first = std::none_of(pieces.begin(), pieces.end(),
                                      [&](auto const& piece) { return piece.device == index_t(device); });
      planned.transfers += device != home && first ? 1 : 0;
      planned.load[device] += n;
      pieces.push_back({index_t(device), begin, begin + n});
      begin += n;
    };
    auto const counted = [&](std::size_t device) { return planned.load[device] + pending[device]; };

    offset_t const room = devices == 1 ? rows : most - counted(home);
    if (room > 0) give(home, std::min(room, rows));
    bool const once = form == LeastLoadedForm::code && room <= 0; // one order of devices for all pieces
    while (begin < rows) {
      std::vector<std::size_t> others;
      for (std::size_t d = 0; d < std::size_t(devices); ++d)
        if (d != home) others.push_back(d);
      std::stable_sort(others.begin(), others.end(), [&](auto a, auto b) { return counted(a) < counted(b); });
      auto const before = begin;
      for (auto const device : others) {
        offset_t const left = rows - begin, n = std::min(left, most - counted(device));
        if (n <= 0 || (n < least_rows && left > n)) continue;
        give(device, n);
        if (!once || begin == rows) break;
      }
      if (begin == before || (once && begin < rows)) give(others.front(), rows - begin); // somebody has to
    }
  }
};

} // namespace kokomo::inline v0

#endif
