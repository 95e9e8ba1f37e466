// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_COMPRESS_MERGE_EXPERTS_HPP
#define KOKOMO_COMPRESS_MERGE_EXPERTS_HPP

#include <kokomo/compress/group_experts.hpp>
#include <kokomo/compress/linear_assignment.hpp>
#include <kokomo/experts/feed_forward.hpp>

#include <vector>

namespace kokomo::inline v0 {

namespace detail {

using HostExec = Kokkos::DefaultHostExecutionSpace;

/// Calls f(view of a, view of b) for all weights of two sets of feed-forward parameters.
template <class A, class B, class F> void for_each_weight(A& a, B& b, F const& f) {
  f(a.gate_up, b.gate_up), f(a.gate, b.gate), f(a.up, b.up), f(a.down, b.down);
  f(a.gate_up_bias, b.gate_up_bias), f(a.gate_bias, b.gate_bias), f(a.up_bias, b.up_bias);
  f(a.down_bias, b.down_bias);
}

/// The weights of feed-forward experts as units, read or written in place: f(number in the unit, weight).
template <class T, class Experts, class P> struct Units {
  Experts const& experts;
  P const& parameters;
  offset_t hidden;

  offset_t width() const { return (Experts::gated ? 3 : 2) * hidden + (experts.bias ? Experts::gated ? 2 : 1 : 0); }
  template <class F> void visit(offset_t e, offset_t u, F const& f) const {
    auto const up = experts.template up_projection<T>(parameters, hidden);
    auto const down = experts.template down_projection<T>(parameters, hidden);
    auto gate = up;
    if constexpr (Experts::gated) gate = experts.template gate_projection<T>(parameters, hidden);
    offset_t at = 0;
    if constexpr (Experts::gated)
      for (offset_t h = 0; h < hidden; ++h) f(at++, gate.weight(e, u, h));
    for (offset_t h = 0; h < hidden; ++h) f(at++, up.weight(e, u, h));
    for (offset_t h = 0; h < hidden; ++h) f(at++, down.weight(e, h, u));
    auto const bias = [&](auto const& ref) { f(at++, ref.data[e * ref.group_stride + u * ref.n_stride]); };
    if (!experts.bias) return;
    if constexpr (Experts::gated) bias(gate.bias);
    bias(up.bias);
  }
};

} // namespace detail

/// Feed-forward experts aligned and averaged, on the host in float64. Source: UNITES-Lab/MC-SMoE, merging/permutation.py and
/// merging/grouping.py (docs/policies/compress/merge_experts.md).
namespace compress {

/// A feed-forward expert by hidden units: row u of `units` holds all weights of unit u, in this order: gate row (gated experts),
/// up row, down column, and with biases those of gate and up. Exchanging rows leaves its function unchanged.
struct ExpertUnits {
  offset_t count = 0;              ///< hidden units
  offset_t width = 0;              ///< weights of one
  std::vector<double> units{};     ///< [count, width]
  std::vector<double> down_bias{}; ///< [hidden], or none
};

/// Which unit of `expert` stands for each of `reference`: the permutation with the largest sum of dot products of their
/// weights, which is the least squared distance.
/// \throws kokomo::Error 201 for experts of different extents
inline std::vector<index_t> match_units(ExpertUnits const& reference, ExpertUnits const& expert) {
  detail::require(reference.count == expert.count && reference.width == expert.width, 201, "expert has ", expert.count,
                  " units of ", expert.width, " weights, expected ", reference.count, " of ", reference.width);
  offset_t const n = expert.count, width = expert.width;
  std::vector<double> profit(std::size_t(n * n), 0.0);
  for (offset_t u = 0; u < n; ++u)
    for (offset_t v = 0; v < n; ++v) {
      double sum = 0;
      double const *const a = &reference.units[std::size_t(u * width)], *const b =
                                                                            &expert.units[std::size_t(v * width)];
      for (offset_t i = 0; i < width; ++i) sum += a[i] * b[i];
      profit[std::size_t(u * n + v)] = sum;
    }
  return linear_assignment(profit, index_t(n));
}

/// The same function with its units in another order: unit u becomes what unit order[u] was.
inline ExpertUnits permuted(ExpertUnits const& expert, std::vector<index_t> const& order) {
  ExpertUnits result = expert;
  for (std::size_t u = 0; u < order.size(); ++u)
    for (offset_t i = 0; i < expert.width; ++i)
      result.units[u * std::size_t(expert.width) + std::size_t(i)] =
          expert.units[std::size_t(order[u] * expert.width + i)];
  return result;
}

struct MergeSettings {
  bool align = true;     ///< units are matched to those of the group's first expert
  double epsilon = 1e-7; ///< added to a group's usage
};

/// One expert a group: W = sum_e alpha_e W_e / (sum_e alpha_e + epsilon) over its experts, each aligned to the first (the one of
/// least index). A group that nobody used becomes zero, as in the source.
/// \param[in] alpha [experts] usage
/// \throws kokomo::Error 201 for experts of different extents, or another number of them
inline std::vector<ExpertUnits> merge_experts(std::vector<ExpertUnits> const& experts, Groups const& groups,
                                              std::vector<double> const& alpha, MergeSettings const& settings = {}) {
  detail::require(experts.size() == alpha.size() && experts.size() == groups.group_of_expert.size(), 201,
                  "experts = ", experts.size(), ", usage of ", alpha.size(), ", groups of ",
                  groups.group_of_expert.size(), ", expected the same number");
  std::vector<ExpertUnits> merged;
  for (index_t g = 0; g < index_t(groups.dominant.size()); ++g) {
    ExpertUnits sum;
    ExpertUnits const* first = nullptr;
    double total = 0;
    auto const add = [](std::vector<double>& to, std::vector<double> const& from, double weight) {
      to.resize(from.size(), 0.0);
      for (std::size_t i = 0; i < from.size(); ++i) to[i] += weight * from[i];
    };
    for (std::size_t e = 0; e < experts.size(); ++e) {
      if (groups.group_of_expert[e] != g) continue;
      bool const moves = settings.align && first != nullptr;
      ExpertUnits const aligned = moves ? permuted(experts[e], match_units(*first, experts[e])) : experts[e];
      if (first == nullptr) first = &experts[e], sum.count = aligned.count, sum.width = aligned.width;
      detail::require(aligned.count == sum.count && aligned.width == sum.width, 201, "expert ", e, " has ",
                      aligned.count, " units of ", aligned.width, " weights, expected ", sum.count, " of ", sum.width);
      add(sum.units, aligned.units, alpha[e]);
      add(sum.down_bias, aligned.down_bias, alpha[e]);
      total += alpha[e];
    }
    for (auto* values : {&sum.units, &sum.down_bias})
      for (double& value : *values) value /= total + settings.epsilon;
    merged.push_back(std::move(sum));
  }
  return merged;
}

/// Feed-forward experts as units, whatever the storage order of their weights. Copies, and fences.
template <class Activation, class Exec, class Parameters>
std::vector<ExpertUnits> read_units(Exec const& exec, FeedForwardExperts<Activation> const& experts,
                                    Parameters const& parameters) {
  using T = typename decltype(parameters.down)::non_const_value_type;
  using Experts = FeedForwardExperts<Activation>;
  typename Experts::template Parameters<T, detail::HostExec> host;
  detail::for_each_weight(host, parameters, [&](auto& to, auto const& from) {
    to = Kokkos::create_mirror(Kokkos::HostSpace{}, from);
    Kokkos::deep_copy(exec, to, from);
  });
  exec.fence("kokomo::compress::read_units");
  bool const out_in = experts.down_order == WeightOrder::out_in;
  auto const hidden = offset_t(host.down.extent(out_in ? 1 : 2));
  detail::Units<T, Experts, decltype(host)> const weights{experts, host, hidden};
  std::vector<ExpertUnits> result(host.down.extent(0));
  for (std::size_t e = 0; e < result.size(); ++e) {
    auto& expert = result[e];
    expert.count = experts.intermediate, expert.width = weights.width();
    expert.units.resize(std::size_t(expert.count * expert.width));
    for (offset_t u = 0; u < expert.count; ++u)
      weights.visit(offset_t(e), u, [&](offset_t i, T const& weight) {
        expert.units[std::size_t(u * expert.width + i)] = double(weight);
      });
    for (offset_t h = 0; experts.bias && h < hidden; ++h) expert.down_bias.push_back(double(host.down_bias(e, h)));
  }
  return result;
}

/// Writes units into the parameters of as many feed-forward experts. Copies, and fences.
/// \throws kokomo::Error 201 for another number of experts, or of other extents
template <class Activation, class Exec, class Parameters>
void write_units(Exec const& exec, FeedForwardExperts<Activation> const& experts, Parameters const& parameters,
                 std::vector<ExpertUnits> const& units) {
  using T = typename decltype(parameters.down)::non_const_value_type;
  using Experts = FeedForwardExperts<Activation>;
  typename Experts::template Parameters<T, detail::HostExec> host;
  detail::for_each_weight(host, parameters,
                          [&](auto& to, auto const& from) { to = Kokkos::create_mirror(Kokkos::HostSpace{}, from); });
  bool const out_in = experts.down_order == WeightOrder::out_in;
  auto const hidden = offset_t(host.down.extent(out_in ? 1 : 2));
  detail::Units<T, Experts, decltype(host)> const weights{experts, host, hidden};
  detail::require(units.size() == host.down.extent(0), 201, "units of ", units.size(), " experts, expected ",
                  host.down.extent(0));
  for (std::size_t e = 0; e < units.size(); ++e) {
    auto const& expert = units[e];
    detail::require(expert.count == experts.intermediate && expert.width == weights.width(), 201, "expert ", e, " has ",
                    expert.count, " units of ", expert.width, " weights, expected ", experts.intermediate, " of ",
                    weights.width());
    for (offset_t u = 0; u < expert.count; ++u)
      weights.visit(offset_t(e), u, [&](offset_t i, T& weight) {
        weight = static_cast<T>(expert.units[std::size_t(u * expert.width + i)]);
      });
    for (offset_t h = 0; experts.bias && h < hidden; ++h)
      host.down_bias(e, h) = static_cast<T>(expert.down_bias[std::size_t(h)]);
  }
  detail::for_each_weight(host, parameters,
                          [&](auto const& from, auto const& to) { Kokkos::deep_copy(exec, to, from); });
  exec.fence("kokomo::compress::write_units");
}

} // namespace compress
} // namespace kokomo::inline v0

#endif
