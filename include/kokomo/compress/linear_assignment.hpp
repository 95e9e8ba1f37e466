// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_COMPRESS_LINEAR_ASSIGNMENT_HPP
#define KOKOMO_COMPRESS_LINEAR_ASSIGNMENT_HPP

#include <kokomo/error.hpp>
#include <kokomo/types.hpp>

#include <cmath>
#include <limits>
#include <vector>

namespace kokomo::inline v0 {

namespace compress {

/// The permutation p of 0 .. n - 1 with the largest sum_u profit[u][p(u)], exactly: shortest augmenting paths with dual
/// prices (Hungarian method; Jonker and Volgenant 1987), O(n^3) time and O(n) memory beside the profits. On the host.
/// Among equal sums the choice is fixed, but no rule for it is promised.
/// \param[in] profit [n, n] row-major
/// \throws kokomo::Error 201 for profits that are not n times n, 106 for one that is not finite
inline std::vector<index_t> linear_assignment(std::vector<double> const& profit, index_t n) {
  detail::require(n >= 0 && profit.size() == std::size_t(n) * std::size_t(n), 201, "profit has ", profit.size(),
                  " values, expected ", n, " times ", n);
  for (double const value : profit)
    detail::require(std::isfinite(value), 106, "linear_assignment: a profit is ", value, ", expected finite ones");
  constexpr double infinity = std::numeric_limits<double>::infinity();
  // Costs are -profit. Column 0 and row 0 stand for nobody, so that ids are one higher.
  auto const size = std::size_t(n) + 1;
  auto const cost = [&](index_t row, index_t column) {
    return -profit[std::size_t(row - 1) * std::size_t(n) + std::size_t(column - 1)];
  };
  std::vector<double> row_price(size, 0.0), column_price(size, 0.0), slack(size);
  std::vector<index_t> row_of(size, 0), previous(size, 0); // by column
  std::vector<bool> visited(size);
  for (index_t row = 1; row <= n; ++row) {
    // The shortest path, in reduced costs, from this row to a column that nobody has.
    slack.assign(size, infinity);
    visited.assign(size, false);
    row_of[0] = row;
    index_t column = 0;
    do {
      visited[column] = true;
      index_t const from = row_of[column];
      index_t nearest = 0;
      double step = infinity;
      for (index_t j = 1; j <= n; ++j) {
        if (visited[j]) continue;
        double const reduced = cost(from, j) - row_price[from] - column_price[j];
        if (reduced < slack[j]) slack[j] = reduced, previous[j] = column;
        if (slack[j] < step) step = slack[j], nearest = j;
      }
      for (index_t j = 0; j <= n; ++j)
        if (visited[j])
          row_price[row_of[j]] += step, column_price[j] -= step;
        else
          slack[j] -= step;
      column = nearest;
    } while (row_of[column] != 0);
    for (; column != 0; column = previous[column]) row_of[column] = row_of[previous[column]];
  }
  std::vector<index_t> permutation(static_cast<std::size_t>(n));
  for (index_t j = 1; j <= n; ++j) permutation[std::size_t(row_of[j] - 1)] = j - 1;
  return permutation;
}

} // namespace compress
} // namespace kokomo::inline v0

#endif
