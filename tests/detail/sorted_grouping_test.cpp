// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/views.hpp>

#include <kokomo/detail/sorted_grouping.hpp>

#include <random>

namespace sorted_grouping_test {

using namespace kokomo;
using namespace kokomo::test;

/// Random choices, some of nobody and some dropped, grouped by sort; compared with a stable sort on the host.
void check_sort(offset_t tokens, index_t experts, int k, double taken) {
  Exec const exec;
  Sizes sizes;
  sizes.tokens = tokens, sizes.experts = experts, sizes.entries = tokens * k;
  detail::Arena counted;
  (void)Assignment<double, Exec>(counted, tokens, experts, sizes.entries);
  (void)detail::GroupingScratch<Exec>(counted, sizes);
  Kokkos::View<std::byte*, Exec> const memory("memory", counted.used() + 64);
  Kokkos::deep_copy(memory, std::byte(0xff));
  auto const address = reinterpret_cast<std::uintptr_t>(memory.data());
  detail::Arena arena(memory.data() + (64 - address % 64) % 64);
  Assignment<double, Exec> const a(arena, tokens, experts, sizes.entries);
  detail::GroupingScratch<Exec> const scratch(arena, sizes);

  std::mt19937 engine(7);
  std::uniform_int_distribution<index_t> expert_of(0, experts - 1);
  std::bernoulli_distribution takes(taken);
  std::vector<offset_t> offsets;
  std::vector<index_t> expert, row;
  std::vector<double> weight;
  for (offset_t t = 0; t <= tokens; ++t) {
    offsets.push_back(offset_t(expert.size()));
    if (t == tokens || t % 7 == 3) continue; // some tokens have no entries
    for (int j = 0; j < k; ++j) {
      expert.push_back(expert_of(engine));
      if (j == 1) expert.back() = experts - 1; // one that many share
      row.push_back(takes(engine) ? 0 : none);
      weight.push_back(double(expert.size()));
    }
  }
  auto const used = expert.size();
  expert.resize(std::size_t(sizes.entries), none), row.resize(expert.size(), none), weight.resize(expert.size());
  to_device(offsets, a.token_offsets), to_device(expert, a.expert), to_device(row, a.row), to_device(weight, a.weight);
  detail::sort_by_expert(exec, a, scratch);
  exec.fence();

  std::vector<index_t> order, token_of_entry(used);
  for (offset_t t = 0; t < tokens; ++t)
    for (auto i = offsets[std::size_t(t)]; i < offsets[std::size_t(t) + 1]; ++i)
      token_of_entry[std::size_t(i)] = index_t(t);
  for (std::size_t i = 0; i < used; ++i)
    if (row[i] != none) order.push_back(index_t(i));
  std::stable_sort(order.begin(), order.end(),
                   [&](index_t i, index_t j) { return expert[std::size_t(i)] < expert[std::size_t(j)]; });
  auto const entry_of_row = to_host(a.entry_of_row), token_of_row = to_host(a.token_of_row),
             expert_of_row = to_host(a.expert_of_row), rows = to_host(a.row);
  auto const weight_of_row = to_host(a.weight_of_row);
  auto const expert_offsets = to_host(a.expert_offsets);
  bool same = true;
  for (std::size_t r = 0; r < order.size(); ++r) {
    auto const i = std::size_t(order[r]);
    same = same && entry_of_row[r] == order[r] && rows[i] == index_t(r) && token_of_row[r] == token_of_entry[i] &&
           expert_of_row[r] == expert[i] && weight_of_row[r] == weight[i];
  }
  REQUIRE(same);
  std::vector<offset_t> expected(std::size_t(experts) + 1);
  for (index_t const i : order) ++expected[std::size_t(expert[std::size_t(i)]) + 1];
  for (std::size_t e = 0; e < std::size_t(experts); ++e) expected[e + 1] += expected[e];
  REQUIRE(expert_offsets == expected);
}

TEST_CASE("grouping by sort is the stable grouping, for one to three digits") {
  for (index_t const experts : {5000, 300000}) {
    check_sort(500, experts, 3, 0.8);
    check_sort(1, experts, 2, 1);
    check_sort(50, experts, 4, 0); // nothing is executed
    check_sort(0, experts, 2, 1);
  }
  check_sort(500, (1 << 22) + 1, 3, 0.8); // two digits hold 2^22
}

} // namespace sorted_grouping_test
