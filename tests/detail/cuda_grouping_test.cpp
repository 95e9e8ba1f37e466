// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// The counting sort of a device, its threads run in any order, against the sort that the definition of rows is.
#include <support/catch.hpp>

#include <kokomo/detail/grouping.hpp>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace cuda_grouping_test {

using namespace kokomo;
using Exec = Kokkos::DefaultHostExecutionSpace;

template <class F> void in_any_order(std::mt19937& engine, offset_t count, F const& f) {
  std::vector<offset_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), offset_t(0));
  std::shuffle(order.begin(), order.end(), engine);
  for (offset_t i : order) f(i);
}

template <class S> Vector<S, Exec> view(std::vector<S>& v) {
  return Vector<S, Exec>(v.data(), v.size());
}

void check(offset_t tokens, index_t experts, int most_entries, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<offset_t> token_offsets{0};
  std::vector<index_t> expert, row, token_of_entry;
  std::vector<float> weight;
  for (offset_t t = 0; t < tokens; ++t) {
    for (unsigned n = engine() % unsigned(most_entries + 1); n > 0; --n) {
      unsigned const kind = engine() % 8; // routes nowhere, is dropped, or executed
      expert.push_back(kind == 0 ? none : index_t(engine() % unsigned(experts)));
      row.push_back(kind <= 1 ? none : 0);
      weight.push_back(float(engine() % 64));
      token_of_entry.push_back(index_t(t));
    }
    token_offsets.push_back(offset_t(expert.size()));
  }
  auto const entries = expert.size();
  std::vector<offset_t> offsets(std::size_t(experts) + 1, 99);
  std::vector<index_t> entry_of_row(entries, 99), token_of_row = entry_of_row, expert_of_row = entry_of_row;
  std::vector<float> weight_of_row(entries);
  Assignment<float, Exec> a;
  a.tokens = tokens;
  a.experts = experts;
  a.token_offsets = view(token_offsets), a.expert = view(expert), a.weight = view(weight), a.row = view(row);
  a.expert_offsets = view(offsets), a.entry_of_row = view(entry_of_row), a.token_of_row = view(token_of_row);
  a.expert_of_row = view(expert_of_row), a.weight_of_row = view(weight_of_row);

  std::vector<index_t> order; // executed entries, stably by expert
  for (std::size_t i = 0; i < entries; ++i)
    if (row[i] != none) order.push_back(index_t(i));
  std::stable_sort(order.begin(), order.end(),
                   [&](index_t x, index_t y) { return expert[std::size_t(x)] < expert[std::size_t(y)]; });

  offset_t const blocks = detail::grouping_blocks(tokens), size = detail::grouping_block;
  std::vector<index_t> memory(std::size_t(blocks * experts), 77);
  Matrix<index_t, Exec> const counts(memory.data(), std::size_t(blocks), std::size_t(experts));
  in_any_order(engine, blocks * experts, detail::cuda::CountExpert<float, Exec>{a, counts, size});
  in_any_order(engine, experts, detail::cuda::ScanBlocks<float, Exec>{a, counts});
  detail::cuda::ScanExperts<float, Exec>{a}(0);
  in_any_order(engine, blocks * experts, detail::cuda::PlaceExpert<float, Exec>{a, counts, size});

  REQUIRE(offsets[0] == 0);
  REQUIRE(offsets[std::size_t(experts)] == offset_t(order.size()));
  for (std::size_t r = 0; r < order.size(); ++r) {
    auto const i = std::size_t(order[r]);
    REQUIRE(entry_of_row[r] == index_t(i));
    REQUIRE(row[i] == index_t(r));
    REQUIRE(token_of_row[r] == token_of_entry[i]);
    REQUIRE(expert_of_row[r] == expert[i]);
    REQUIRE(weight_of_row[r] == weight[i]);
    REQUIRE((offsets[std::size_t(expert[i])] <= offset_t(r) && offset_t(r) < offsets[std::size_t(expert[i]) + 1]));
  }
}

TEST_CASE("cuda grouping: a stable sort by expert, whatever the order of its threads") {
  check(0, 3, 2, 1);
  check(1, 1, 1, 2);
  check(64, 5, 3, 3);
  check(65, 40, 4, 4);
  check(1000, 17, 8, 5); // 16 blocks, two steps of a scan
  check(700, 3, 1, 6);
}

} // namespace cuda_grouping_test
