// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_PROPERTIES_COMPARE_HPP
#define KOKOMO_TESTS_PROPERTIES_COMPARE_HPP

#include <properties/machine.hpp>
#include <support/catch.hpp>

#include <cmath>
#include <numeric>

namespace properties {

/// The same numbers; a NaN is the same as another.
inline bool identical(std::vector<double> const& a, std::vector<double> const& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}

inline bool identical(Tensors const& a, Tensors const& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](auto const& x, auto const& y) {
           return x.first == y.first && identical(x.second.values, y.second.values);
         });
}

/// ||out - ref|| / ||ref||; infinite for NaN.
inline double relative_error(std::vector<double> const& out, std::vector<double> const& ref) {
  if (out.size() != ref.size()) return INFINITY;
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < ref.size(); ++i) {
    error += (out[i] - ref[i]) * (out[i] - ref[i]);
    norm += ref[i] * ref[i];
  }
  double const relative = norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
  return std::isnan(relative) ? INFINITY : relative;
}

/// Rows `rows` of a matrix of `width` columns, in that order.
inline std::vector<double> rows_of(std::vector<double> const& matrix, std::vector<std::size_t> const& rows,
                                   offset_t width) {
  std::vector<double> picked;
  for (std::size_t row : rows)
    picked.insert(picked.end(), matrix.begin() + offset_t(row) * width, matrix.begin() + offset_t(row + 1) * width);
  return picked;
}

inline std::vector<std::size_t> permutation(std::size_t n, unsigned seed) {
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  std::mt19937 engine(seed);
  for (std::size_t i = n; i > 1; --i) std::swap(order[i - 1], order[engine() % i]); // std::shuffle is not portable
  return order;
}

/// The experts that token t chose, in the order of its entries.
inline std::vector<index_t> choices(Result const& r, std::size_t token) {
  return {r.expert.begin() + r.token_offsets[token], r.expert.begin() + r.token_offsets[token + 1]};
}
inline std::vector<double> weights(Result const& r, std::size_t token) {
  return {r.weight.begin() + r.token_offsets[token], r.weight.begin() + r.token_offsets[token + 1]};
}

/// Everything that an Assignment promises (kokomo/assignment.hpp), and that no entry is lost: what is chosen is
/// executed or counted as dropped.
inline void check_assignment(Result const& r, offset_t tokens, kokomo::Sizes const& sizes,
                             std::vector<index_t> const& mask = {}) {
  REQUIRE(r.guards_intact);
  REQUIRE(r.token_offsets.size() == std::size_t(tokens) + 1);
  REQUIRE(r.expert_offsets.size() == std::size_t(sizes.experts) + 1);
  REQUIRE(r.token_offsets.front() == 0);
  REQUIRE(std::is_sorted(r.token_offsets.begin(), r.token_offsets.end()));
  REQUIRE(r.token_offsets.back() <= offset_t(r.expert.size()));
  REQUIRE(r.expert_offsets.front() == 0);
  REQUIRE(std::is_sorted(r.expert_offsets.begin(), r.expert_offsets.end()));

  offset_t chosen = 0, executed = 0, idle = 0;
  for (offset_t t = 0; t < tokens; ++t) {
    bool any = false;
    REQUIRE(r.token_offsets[t + 1] - r.token_offsets[t] <= sizes.per_token);
    for (offset_t i = r.token_offsets[t]; i < r.token_offsets[t + 1]; ++i) {
      index_t const e = r.expert[i], row = r.row[i];
      REQUIRE((e == kokomo::none || (e >= 0 && e < sizes.experts)));
      if (!mask.empty() && mask[t] == 0) REQUIRE(e == kokomo::none);
      chosen += e != kokomo::none;
      if (e == kokomo::none) {
        REQUIRE(row == kokomo::none);
        REQUIRE(r.weight[i] == 0);
      }
      if (row == kokomo::none) continue;
      any = true;
      ++executed;
      REQUIRE(row >= r.expert_offsets[e]);
      REQUIRE(row < r.expert_offsets[e + 1]);
      REQUIRE(r.entry_of_row[row] == i);
      REQUIRE(r.token_of_row[row] == t);
      REQUIRE(r.expert_of_row[row] == e);
      REQUIRE(identical({r.weight_of_row[row]}, {r.weight[i]}));
    }
    idle += !any;
  }
  REQUIRE(r.expert_offsets.back() == executed);
  for (index_t e = 0; e < sizes.experts; ++e)
    for (offset_t row = r.expert_offsets[e] + 1; row < r.expert_offsets[e + 1]; ++row)
      REQUIRE(r.entry_of_row[row - 1] < r.entry_of_row[row]); // stable
  REQUIRE(r.status.dropped == chosen - executed);
  REQUIRE(r.status.tokens_without_expert == idle);
  REQUIRE(r.status.invalid_ids == 0);
}

} // namespace properties

#endif
