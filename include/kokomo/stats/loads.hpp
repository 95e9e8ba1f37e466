// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_STATS_LOADS_HPP
#define KOKOMO_STATS_LOADS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/routing.hpp>
#include <kokomo/workspace.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace kokomo::inline v0::stats {

/// Copies a View of any memory space to the host and waits for it.
template <class Exec, class View> auto to_host(Exec const& exec, View const& view) {
  using Value = typename View::non_const_value_type;
  std::vector<Value> values(view.size());
  Kokkos::View<Value*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged> const target(values.data(), values.size());
  Kokkos::View<Value const*, typename View::memory_space, Kokkos::MemoryUnmanaged> const source(view.data(),
                                                                                                view.size());
  Kokkos::deep_copy(exec, target, source);
  exec.fence("kokomo::stats::to_host");
  return values;
}

/// How one forward pass used the experts of one layer, on the host.
struct Loads {
  std::vector<offset_t> rows; ///< [experts] entries that an expert executed
  offset_t tokens = 0;
  Status status;

  offset_t executed() const { return std::accumulate(rows.begin(), rows.end(), offset_t(0)); }
  /// Rows an expert if all had as many.
  double balanced() const { return rows.empty() ? 0 : double(executed()) / double(rows.size()); }
  /// MaxVio: what the busiest expert has above the balanced load, in units of it. 0: perfect, E - 1: one has all.
  double max_violation() const {
    return balanced() > 0 ? double(*std::max_element(rows.begin(), rows.end())) / balanced() - 1 : 0;
  }
  /// Experts without a row.
  offset_t dead() const { return std::count(rows.begin(), rows.end(), 0); }
  /// Entropy of the loads as shares, in units of its largest value log(E): 1 is perfect balance, 0 one expert for all.
  double entropy() const {
    double const total = double(executed());
    if (rows.size() < 2 || total == 0) return rows.size() == 1 && total > 0 ? 1 : 0;
    double sum = 0;
    for (offset_t const count : rows)
      if (count > 0) sum -= double(count) / total * std::log(double(count) / total);
    return sum / std::log(double(rows.size()));
  }
  /// What the pass cost, if a row of expert e costs of_expert[e]: the sum over all executed entries.
  double cost(std::vector<double> const& of_expert) const {
    return std::inner_product(rows.begin(), rows.end(), of_expert.begin(), 0.0);
  }
  /// Share of the experts that have a row (OmniMoE's usage).
  double usage() const { return rows.empty() ? 0 : 1 - double(dead()) / double(rows.size()); }
  /// Divergence of the loads as shares from the uniform distribution in nats, sum of z log(E z) (OmniMoE's unevenness):
  /// (1 - entropy()) log(E). 0 without a row.
  double unevenness() const { return executed() > 0 ? (1 - entropy()) * std::log(double(rows.size())) : 0; }
  double experts_per_token() const { return tokens > 0 ? double(executed()) / double(tokens) : 0; }
  /// Share of the chosen entries that were not executed.
  double dropped_share() const {
    double const chosen = double(executed() + status.dropped);
    return chosen > 0 ? double(status.dropped) / chosen : 0;
  }
};

/// Loads of the last forward pass. Grouping has counted them already: this copies E + 1 numbers and the status, and
/// fences; the pass itself pays nothing.
template <class Layer>
Loads loads(typename Layer::Exec const& exec, Layer const& layer, Tape<typename Layer::Exec> const& tape) {
  auto const a = layer.saved(tape).assignment;
  auto const offsets = to_host(exec, a.expert_offsets);
  Loads loads;
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) loads.rows.push_back(offsets[e + 1] - offsets[e]);
  loads.tokens = a.tokens;
  loads.status = layer.status(exec, tape);
  return loads;
}

} // namespace kokomo::inline v0::stats

#endif
