// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <kokomo/combine/weighted_sum.hpp>

#include <vector>

namespace gather_sum_test {

using namespace kokomo;
using Exec = Kokkos::DefaultHostExecutionSpace;

TEST_CASE("gather sum: a thread a token and a thread an element give the same sums") {
  // entries of four tokens: two rows; one dropped and one row; none; the same row twice
  std::vector<offset_t> offsets{0, 2, 4, 4, 6};
  std::vector<index_t> row{3, 0, none, 1, 2, 2};
  std::vector<float> weight{0.5f, 0.25f, 4, 2, 1, 0.125f};
  offset_t const tokens = 4, width = 5;
  std::vector<float> rows(4 * 5);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = float(i * i % 31) / 8.0f - 1.5f; // sums are exact
  Assignment<float, Exec> a;
  a.tokens = tokens;
  a.token_offsets = Vector<offset_t, Exec>(offsets.data(), offsets.size());
  a.row = Vector<index_t, Exec>(row.data(), row.size());
  a.weight = Vector<float, Exec>(weight.data(), weight.size());
  for (bool weighted : {true, false}) {
    std::vector<float> by_token(std::size_t(tokens * width), -1), by_element = by_token;
    detail::GatherSum<float, Exec> const token{a, rows.data(), by_token.data(), width, weighted};
    detail::GatherSumElement<float, Exec> const element{a, rows.data(), by_element.data(), width, weighted};
    for (offset_t t = 0; t < tokens; ++t) token(t);
    for (offset_t i = 0; i < tokens * width; ++i) element(i);
    REQUIRE(by_element == by_token);
    for (offset_t t = 0; t < tokens; ++t)
      for (offset_t h = 0; h < width; ++h) {
        float sum = 0;
        for (auto i = std::size_t(offsets[std::size_t(t)]); i < std::size_t(offsets[std::size_t(t) + 1]); ++i)
          if (row[i] != none) sum += (weighted ? weight[i] : 1.0f) * rows[std::size_t(row[i] * width + h)];
        REQUIRE(by_element[std::size_t(t * width + h)] == sum);
      }
  }
}

} // namespace gather_sum_test
