// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_COMPRESS_LOW_RANK_HPP
#define KOKOMO_COMPRESS_LOW_RANK_HPP

#include <kokomo/compress/merge_experts.hpp>
#include <kokomo/experts/low_rank_plus_row_sparse.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace kokomo::inline v0 {

namespace detail {

/// W = sum_i left_i sigma_i right_i^T of W [rows, columns], by one-sided Jacobi: planes of the shorter side's vectors are
/// rotated until all are orthogonal. What is left is left sigma; largest sigma first.
struct Singular {
  offset_t rows = 0, columns = 0;
  std::vector<double> sigma;                    // [n], n = min(rows, columns)
  std::vector<std::vector<double>> left, right; // [n][rows], [n][columns]

  explicit Singular(std::vector<double> const& w, offset_t out, offset_t in) : rows(out), columns(in) {
    bool const wide = columns > rows; // vectors: rows of W if wide, else its columns
    offset_t const n = std::min(rows, columns), length = std::max(rows, columns);
    auto const size = static_cast<std::size_t>(n);
    std::vector<std::vector<double>> a(size, std::vector<double>(std::size_t(length), 0.0)), turn(size);
    for (offset_t i = 0; i < n; ++i) {
      for (offset_t j = 0; j < length; ++j)
        a[std::size_t(i)][std::size_t(j)] = w[std::size_t(wide ? i * columns + j : j * columns + i)];
      turn[std::size_t(i)].assign(std::size_t(n), 0.0);
      turn[std::size_t(i)][std::size_t(i)] = 1;
    }
    for (int sweep = 0; sweep < 60 && rotate_all(a, turn); ++sweep) {
    }
    std::vector<double> lengths;
    for (auto const& vector : a) lengths.push_back(std::sqrt(dot(vector, vector)));
    std::vector<std::size_t> order(size);
    std::iota(order.begin(), order.end(), std::size_t(0));
    std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return lengths[i] > lengths[j]; });
    for (std::size_t const i : order) {
      for (double& value : a[i]) value = lengths[i] > 0 ? value / lengths[i] : 0;
      sigma.push_back(lengths[i]);
      left.push_back(wide ? turn[i] : a[i]);
      right.push_back(wide ? a[i] : turn[i]);
    }
  }

private:
  static double dot(std::vector<double> const& a, std::vector<double> const& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  }
  static bool rotate_all(std::vector<std::vector<double>>& a, std::vector<std::vector<double>>& turn) {
    bool rotated = false;
    for (std::size_t p = 0; p < a.size(); ++p)
      for (std::size_t q = p + 1; q < a.size(); ++q) {
        double const pp = dot(a[p], a[p]), qq = dot(a[q], a[q]), pq = dot(a[p], a[q]);
        if (!(std::abs(pq) > 1e-15 * std::sqrt(pp * qq))) continue; // also for NaN
        rotated = true;
        double const zeta = (qq - pp) / (2 * pq);
        double const t = (zeta >= 0 ? 1 : -1) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
        double const c = 1 / std::sqrt(1 + t * t), s = c * t;
        for (auto* vectors : {&a, &turn})
          for (std::size_t i = 0; i < (*vectors)[p].size(); ++i) {
            double const x = (*vectors)[p][i], y = (*vectors)[q][i];
            (*vectors)[p][i] = c * x - s * y, (*vectors)[q][i] = s * x + c * y;
          }
      }
    return rotated;
  }
};

} // namespace detail

/// A trained matrix as U V + S, and which rows of S stay: MC-SMoE's second half, on the host in float64.
/// Source: UNITES-Lab/MC-SMoE, pruning/losparse.py (docs/policies/compress/low_rank.md).
namespace compress {

/// ceil(ratio H W / (H + W)): the rank whose factors have that share of a matrix's numbers.
/// \throws kokomo::Error 106 unless ratio > 0
inline offset_t rank_of_ratio(double ratio, offset_t rows, offset_t columns) {
  detail::require(ratio > 0, 106, "ratio = ", ratio, ", expected > 0");
  return offset_t(std::ceil(ratio * double(rows * columns) / double(rows + columns)));
}

struct LowRank {
  offset_t rows = 0, columns = 0, rank = 0;
  std::vector<double> u; ///< [rows, rank] left singular vectors times sqrt(sigma)
  std::vector<double> v; ///< [rank, columns] sqrt(sigma) times right ones
  std::vector<double> s; ///< [rows, columns] W - U V
};

/// The best approximation of a rank, split by the square roots of the singular values, and what it leaves.
/// \param[in] w [rows, columns]
/// \throws kokomo::Error 201 for another number of weights, 106 unless 1 <= rank <= min(rows, columns)
inline LowRank low_rank(std::vector<double> const& w, offset_t rows, offset_t columns, offset_t rank) {
  detail::require(offset_t(w.size()) == rows * columns, 201, "w has ", w.size(), " weights, expected ", rows, " times ",
                  columns);
  detail::require(rank >= 1 && rank <= std::min(rows, columns), 106, "rank = ", rank, ", expected 1 to ",
                  std::min(rows, columns));
  detail::Singular const singular(w, rows, columns);
  LowRank result{rows, columns, rank, {}, {}, w};
  result.u.resize(std::size_t(rows * rank)), result.v.resize(std::size_t(rank * columns));
  for (offset_t r = 0; r < rank; ++r) {
    double const root = std::sqrt(singular.sigma[std::size_t(r)]);
    for (offset_t i = 0; i < rows; ++i)
      result.u[std::size_t(i * rank + r)] = root * singular.left[std::size_t(r)][std::size_t(i)];
    for (offset_t j = 0; j < columns; ++j)
      result.v[std::size_t(r * columns + j)] = root * singular.right[std::size_t(r)][std::size_t(j)];
  }
  for (offset_t i = 0; i < rows; ++i)
    for (offset_t r = 0; r < rank; ++r)
      for (offset_t j = 0; j < columns; ++j)
        result.s[std::size_t(i * columns + j)] -=
            result.u[std::size_t(i * rank + r)] * result.v[std::size_t(r * columns + j)];
  return result;
}

/// What share of the rows of S stays at a step: all of them through the first warm-up, then
/// final + (1 - final) (1 - progress)^3, and `final_ratio` through the last one.
struct KeepSchedule {
  offset_t steps = 0;         ///< of training
  offset_t first_steps = 100; ///< all rows stay
  offset_t last_steps = 400;  ///< as few as at the end
  double final_ratio = 0.1;   ///< 0.25 is the default of the source's class, 0.1 that of its instructions

  double operator()(offset_t step) const {
    if (step <= first_steps) return 1;
    if (step > steps - last_steps) return final_ratio;
    double const left = 1 - double(step - first_steps) / double(steps - first_steps - last_steps);
    return final_ratio + (1 - final_ratio) * left * left * left;
  }
};

/// How much the loss depends on each row of a matrix: I <- beta I + (1 - beta) |w dL/dw| of every weight, a row's mean.
/// The source's code is one update behind: a step's product enters at the next step.
struct RowImportance {
  double beta = 0.85;
  std::vector<double> of_row{}; ///< [rows]

  /// \throws kokomo::Error 201 for extents that do not fit
  void update(std::vector<double> const& w, std::vector<double> const& gradient, offset_t rows) {
    detail::require(rows >= 1 && w.size() == gradient.size() && w.size() % std::size_t(rows) == 0 &&
                        (of_row.empty() || offset_t(of_row.size()) == rows),
                    201, "weights of ", w.size(), " numbers and a gradient of ", gradient.size(), ", expected ", rows,
                    " rows of both");
    of_row.resize(std::size_t(rows), 0.0);
    std::size_t const columns = w.size() / std::size_t(rows);
    for (std::size_t i = 0; i < of_row.size(); ++i) {
      double sum = 0;
      for (std::size_t j = i * columns; j < (i + 1) * columns; ++j) sum += std::abs(w[j] * gradient[j]);
      of_row[i] = beta * of_row[i] + (1 - beta) * sum / double(columns); // the mean of the weights' averages
    }
  }
};

/// Mean of |s| of each row: the importance where there is no gradient.
inline std::vector<double> row_magnitude(LowRank const& matrix) {
  std::vector<double> mean(std::size_t(matrix.rows), 0.0);
  for (std::size_t i = 0; i < mean.size(); ++i)
    for (offset_t j = 0; j < matrix.columns; ++j)
      mean[i] += std::abs(matrix.s[i * std::size_t(matrix.columns) + std::size_t(j)]) / double(matrix.columns);
  return mean;
}

/// Rows of several matrices that stay, of all of them together: the least important go while what goes is less than a share
/// 1 - keep of all weights. A row whose importance is that of the last one to go stays, as in the source.
/// \param[in] importance [matrices][rows]
/// \param[in] columns [matrices] weights of a row
/// \return for each matrix its rows that stay, ascending
/// \throws kokomo::Error 106 unless 0 <= keep <= 1, 201 for other numbers of matrices
inline std::vector<std::vector<index_t>> kept_rows(std::vector<std::vector<double>> const& importance,
                                                   std::vector<offset_t> const& columns, double keep) {
  detail::require(keep >= 0 && keep <= 1, 106, "keep = ", keep, ", expected 0 to 1");
  detail::require(importance.size() == columns.size(), 201, "columns of ", columns.size(), " matrices, expected ",
                  importance.size());
  std::vector<std::pair<double, offset_t>> weights; // (importance, how many weights have it)
  offset_t total = 0;
  for (std::size_t m = 0; m < importance.size(); ++m)
    for (double const value : importance[m]) weights.emplace_back(value, columns[m]), total += columns[m];
  std::sort(weights.begin(), weights.end());
  auto const to_go = offset_t(double(total) * (1 - keep));
  double threshold = -1; // importance of the to_go-th weight
  offset_t seen = 0;
  for (std::size_t i = 0; i < weights.size() && seen < to_go; ++i)
    threshold = weights[i].first, seen += weights[i].second;
  std::vector<std::vector<index_t>> rows(importance.size());
  for (std::size_t m = 0; m < importance.size(); ++m)
    for (std::size_t i = 0; i < importance[m].size(); ++i)
      if (!(importance[m][i] < threshold)) rows[m].push_back(index_t(i));
  return rows;
}

/// Writes experts, as read by `read_units`, as U V + S into the parameters of as many LowRankPlusRowSparse: of each matrix
/// the rank of the policy, and the rows of S with the largest mean |s|, as many as the policy keeps. Copies, and fences.
/// \throws kokomo::Error 201 for another number of experts or other extents
template <class Activation, class Exec, class Parameters>
void write_low_rank(Exec const& exec, LowRankPlusRowSparse<Activation> const& policy, Parameters const& parameters,
                    std::vector<ExpertUnits> const& experts) {
  using T = typename decltype(parameters.down.u)::non_const_value_type;
  constexpr bool gated = Activation::gated;
  offset_t const inner = policy.intermediate, hidden = offset_t(parameters.down.u.extent(1));
  detail::require(experts.size() == parameters.down.u.extent(0), 201, "units of ", experts.size(),
                  " experts, expected ", parameters.down.u.extent(0));
  // The number of a weight within a unit: gate row, up row, down column.
  auto const write = [&](LowRankPlusRows<T, Exec> const& target, offset_t rows, offset_t columns, auto const& weight) {
    auto const u = Kokkos::create_mirror(Kokkos::HostSpace{}, target.u);
    auto const v = Kokkos::create_mirror(Kokkos::HostSpace{}, target.v);
    auto const s = Kokkos::create_mirror(Kokkos::HostSpace{}, target.s);
    auto const kept = Kokkos::create_mirror(Kokkos::HostSpace{}, target.rows);
    for (std::size_t e = 0; e < experts.size(); ++e) {
      std::vector<double> w;
      for (offset_t i = 0; i < rows; ++i)
        for (offset_t j = 0; j < columns; ++j) w.push_back(weight(experts[e], i, j));
      auto const parts = low_rank(w, rows, columns, policy.rank);
      auto const importance = row_magnitude(parts);
      std::vector<index_t> order(static_cast<std::size_t>(rows));
      std::iota(order.begin(), order.end(), index_t(0));
      std::stable_sort(order.begin(), order.end(),
                       [&](index_t a, index_t b) { return importance[std::size_t(a)] > importance[std::size_t(b)]; });
      order.resize(kept.extent(1));
      std::sort(order.begin(), order.end());
      for (std::size_t i = 0; i < parts.u.size(); ++i) u(e, i / u.extent(2), i % u.extent(2)) = T(parts.u[i]);
      for (std::size_t i = 0; i < parts.v.size(); ++i) v(e, i / v.extent(2), i % v.extent(2)) = T(parts.v[i]);
      for (std::size_t i = 0; i < order.size(); ++i) {
        kept(e, i) = order[i];
        for (offset_t j = 0; j < columns; ++j) s(e, i, j) = T(parts.s[std::size_t(order[i] * columns + j)]);
      }
    }
    Kokkos::deep_copy(exec, target.u, u), Kokkos::deep_copy(exec, target.v, v);
    Kokkos::deep_copy(exec, target.s, s), Kokkos::deep_copy(exec, target.rows, kept);
    exec.fence("kokomo::compress::write_low_rank");
  };
  for (auto const& expert : experts)
    detail::require(expert.count == inner && expert.width == (gated ? 3 : 2) * hidden, 201, "an expert has ",
                    expert.count, " units of ", expert.width, " weights, expected ", inner, " of ",
                    (gated ? 3 : 2) * hidden);
  auto const of_unit = [&](offset_t first) {
    return [first](ExpertUnits const& e, offset_t unit, offset_t h) {
      return e.units[std::size_t(unit * e.width + first + h)];
    };
  };
  if constexpr (gated) write(parameters.gate, inner, hidden, of_unit(0));
  write(parameters.up, inner, hidden, of_unit(gated ? hidden : 0));
  write(parameters.down, hidden, inner, [&](ExpertUnits const& e, offset_t h, offset_t unit) {
    return e.units[std::size_t(unit * e.width + (gated ? 2 : 1) * hidden + h)];
  });
}

} // namespace compress
} // namespace kokomo::inline v0

#endif
