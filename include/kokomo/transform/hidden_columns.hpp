// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TRANSFORM_HIDDEN_COLUMNS_HPP
#define KOKOMO_TRANSFORM_HIDDEN_COLUMNS_HPP

#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/experts/feed_forward.hpp>

#include <algorithm>
#include <functional>
#include <vector>

namespace kokomo::inline v0 {

/// One column of the hidden layer of one expert of feed-forward experts: a row of its gate and up projections, a column of
/// its down projection.
struct HiddenColumn {
  index_t expert = 0;
  index_t column = 0;

  bool operator==(HiddenColumn const&) const = default;
};

/// The columns of a dense network (expert 0) in `parts` runs of equal length: Union of Experts' partition.
/// \throws kokomo::Error 103 unless parts divides columns
inline std::vector<std::vector<HiddenColumn>> equal_parts(index_t columns, index_t parts) {
  detail::require(parts >= 1 && columns >= parts && columns % parts == 0, 103, "parts = ", parts,
                  ", expected a divisor of ", columns, " columns");
  std::vector<std::vector<HiddenColumn>> all(static_cast<std::size_t>(parts));
  for (index_t c = 0; c < columns; ++c) all[static_cast<std::size_t>(c / (columns / parts))].push_back({0, c});
  return all;
}

/// Columns by what excites them: those that every domain needs, and what each needs beside.
struct ActiveColumns {
  std::vector<HiddenColumn> residual;
  std::vector<std::vector<HiddenColumn>> of_domain; ///< without those of `residual`; domains overlap otherwise

  /// All that a domain needs, in ascending order.
  std::vector<HiddenColumn> whole(std::size_t domain) const {
    auto all = residual;
    all.insert(all.end(), of_domain[domain].begin(), of_domain[domain].end());
    std::sort(all.begin(), all.end(), [](auto const& a, auto const& b) { return a.column < b.column; });
    return all;
  }
};

/// Read-ME's experts of a dense network: a domain needs the columns whose mean activation is above its N-th largest, N = share
/// of the columns, rounded down; strictly above, so that there are N - 1 of them where no two are equal. What all domains
/// need is the residual.
/// \param[in] activation [domains][columns] mean |input of the down projection|
/// \throws kokomo::Error 101 without domains or with unequal ones, 106 for a share of no column or of more than all
inline ActiveColumns active_columns(std::vector<std::vector<double>> const& activation, double share) {
  detail::require(!activation.empty(), 101, "active_columns of 0 domains, expected at least 1");
  std::size_t const columns = activation[0].size();
  for (auto const& domain : activation)
    detail::require(domain.size() == columns, 101, "a domain has ", domain.size(), " columns, expected ", columns);
  auto const n = static_cast<std::size_t>(share > 0 ? share * double(columns) : 0);
  detail::require(n >= 1 && n <= columns, 106, "a share of ", share, " of ", columns,
                  " columns, expected at least one of them and at most all");
  std::vector<std::vector<bool>> needs;
  std::vector<bool> all(columns, true);
  for (auto const& domain : activation) {
    auto sorted = domain;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    needs.emplace_back();
    for (std::size_t c = 0; c < columns; ++c) {
      needs.back().push_back(domain[c] > sorted[n - 1]);
      all[c] = all[c] && needs.back().back();
    }
  }
  ActiveColumns result;
  result.of_domain.resize(needs.size());
  for (std::size_t c = 0; c < columns; ++c) {
    if (all[c]) result.residual.push_back({0, index_t(c)});
    for (std::size_t d = 0; d < needs.size(); ++d)
      if (needs[d][c] && !all[c]) result.of_domain[d].push_back({0, index_t(c)});
  }
  return result;
}

namespace detail {

template <class T, class Exec> struct CopyColumns {
  Vector<HiddenColumn const, Exec> columns;
  Projection<T> from_gate, from_up, from_down, to_gate, to_up, to_down;
  index_t expert;
  offset_t width, last; // how many columns the source has
  bool gated;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const j = i / width, h = i % width;
    bool const there = j < offset_t(columns.extent(0)) && columns[j].column >= 0 && columns[j].column < last;
    HiddenColumn const c = there ? columns[j] : HiddenColumn{};
    to_up.weight(expert, j, h) = there ? from_up.weight(c.expert, c.column, h) : T(0);
    if (gated) to_gate.weight(expert, j, h) = there ? from_gate.weight(c.expert, c.column, h) : T(0);
    to_down.weight(expert, h, j) = there ? from_down.weight(c.expert, h, c.column) : T(0);
    if (h > 0 || to_up.bias.data == nullptr) return;
    bool const biased = there && from_up.bias.data != nullptr;
    bias(to_up.bias, expert, j) = biased ? bias(from_up.bias, c.expert, c.column) : T(0);
    if (gated) bias(to_gate.bias, expert, j) = biased ? bias(from_gate.bias, c.expert, c.column) : T(0);
  }
  KOKKOS_FUNCTION static T& bias(BiasRef<T> const& b, index_t group, offset_t n) {
    return b.data[group * b.group_stride + n * b.n_stride];
  }
};

template <class T, class Exec> struct SumOutputBias {
  Vector<index_t const, Exec> experts;
  BiasRef<T> from, to;
  index_t expert;
  compute_t<T> share;

  KOKKOS_FUNCTION void operator()(offset_t h) const {
    compute_t<T> sum = 0;
    for (offset_t i = 0; i < offset_t(experts.extent(0)) && from.data != nullptr; ++i)
      sum += compute_t<T>(CopyColumns<T, Exec>::bias(from, experts[i], h));
    CopyColumns<T, Exec>::bias(to, expert, h) = T(share * sum);
  }
};

template <class Exec, class V> Kokkos::View<V*, typename Exec::memory_space> on_device(std::vector<V> const& values) {
  Kokkos::View<V*, typename Exec::memory_space> view("kokomo::hidden_columns", values.size());
  auto const host = Kokkos::create_mirror_view(view);
  std::copy(values.begin(), values.end(), host.data());
  Kokkos::deep_copy(view, host);
  return view;
}

} // namespace detail

/// Makes one expert of columns of others: column j of expert `to_expert` becomes a copy of columns[j], and those behind are
/// zero, which adds nothing. Storage orders of source and target may differ. Experts cut out of a dense network, or merged
/// into one, compute what it does with these columns alone. An output bias becomes `bias_share` times the sum of those of the
/// experts that columns names: 1 / parts for parts that are added up, 1 for what is merged.
///
/// Allocates and fences: for the time before training.
/// \throws kokomo::Error 101 for more columns than the target has, 106 for columns or experts that the source has not
template <class T, class Exec, class From, class To>
void copy_columns(Exec const& exec, FeedForwardExperts<From> const& from_policy,
                  typename FeedForwardExperts<From>::template Parameters<T, Exec> const& from,
                  FeedForwardExperts<To> const& to_policy,
                  typename FeedForwardExperts<To>::template Parameters<T, Exec> const& to, index_t to_expert,
                  std::vector<HiddenColumn> const& columns, float bias_share = 1) {
  constexpr bool gated = FeedForwardExperts<From>::gated;
  static_assert(gated == FeedForwardExperts<To>::gated,
                "kokomo::copy_columns: both networks must be gated, or both plain");
  auto const extent = [](auto const& policy, auto const& down) {
    return offset_t(down.extent(policy.down_order == WeightOrder::out_in ? 1 : 2));
  };
  offset_t const width = extent(to_policy, to.down);
  auto const experts = static_cast<index_t>(from.down.extent(0));
  detail::require(extent(from_policy, from.down) == width, 101, "the source has width ", extent(from_policy, from.down),
                  ", expected the target's: ", width);
  detail::require(offset_t(columns.size()) <= to_policy.intermediate, 101, columns.size(),
                  " columns, expected at most the target's: ", to_policy.intermediate);
  detail::require(to_expert >= 0 && to_expert < index_t(to.down.extent(0)), 106, "to_expert = ", to_expert,
                  ", expected 0 .. ", index_t(to.down.extent(0)) - 1);
  std::vector<index_t> named;
  for (auto const& c : columns) {
    detail::require(c.expert >= 0 && c.expert < experts && c.column >= 0 && c.column < from_policy.intermediate, 106,
                    "column ", c.column, " of expert ", c.expert, ", expected below ", from_policy.intermediate, " of ",
                    experts);
    if (std::find(named.begin(), named.end(), c.expert) == named.end()) named.push_back(c.expert);
  }

  auto const from_up = from_policy.template up_projection<T, Exec>(from, width),
             to_up = to_policy.template up_projection<T, Exec>(to, width),
             from_down = from_policy.template down_projection<T, Exec>(from, width),
             to_down = to_policy.template down_projection<T, Exec>(to, width);
  auto from_gate = from_up, to_gate = to_up;
  if constexpr (gated) {
    from_gate = from_policy.template gate_projection<T, Exec>(from, width);
    to_gate = to_policy.template gate_projection<T, Exec>(to, width);
  }
  auto const list = detail::on_device<Exec>(columns);
  detail::for_each(exec, "kokomo::copy_columns", to_policy.intermediate * width,
                   detail::CopyColumns<T, Exec>{list, from_gate, from_up, from_down, to_gate, to_up, to_down, to_expert,
                                                width, from_policy.intermediate, gated});
  auto const sources = detail::on_device<Exec>(named);
  if (to_down.bias.data != nullptr)
    detail::for_each(
        exec, "kokomo::copy_columns::bias", width,
        detail::SumOutputBias<T, Exec>{sources, from_down.bias, to_down.bias, to_expert, compute_t<T>(bias_share)});
  exec.fence("kokomo::copy_columns"); // the lists live until here
}

} // namespace kokomo::inline v0

#endif
