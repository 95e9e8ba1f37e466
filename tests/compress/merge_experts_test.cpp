// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <kokomo/compress/group_experts.hpp>
#include <kokomo/compress/linear_assignment.hpp>
#include <kokomo/compress/merge_experts.hpp>

#include <support/catch.hpp>
#include <support/views.hpp>

#include <cmath>
#include <numeric>
#include <random>

namespace merge_experts_test {

using namespace kokomo;
using namespace kokomo::compress;
using kokomo::test::relative_error;
using kokomo::test::Row;

double total(std::vector<double> const& profit, std::vector<index_t> const& order) {
  double sum = 0;
  for (std::size_t u = 0; u < order.size(); ++u) sum += profit[u * order.size() + std::size_t(order[u])];
  return sum;
}

bool is_permutation(std::vector<index_t> order) {
  std::sort(order.begin(), order.end());
  for (std::size_t i = 0; i < order.size(); ++i)
    if (order[i] != index_t(i)) return false;
  return true;
}

TEST_CASE("linear_assignment finds the largest sum of all permutations") {
  std::mt19937 engine(1);
  std::normal_distribution<double> normal;
  std::uniform_int_distribution<int> few(-2, 2); // many equal sums
  for (int n = 0; n <= 7; ++n)
    for (int trial = 0; trial < 12; ++trial) {
      std::vector<double> profit(std::size_t(n * n));
      for (double& value : profit) value = trial % 2 == 0 ? normal(engine) : few(engine);
      auto const found = linear_assignment(profit, n);
      std::vector<index_t> order(static_cast<std::size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      double best = total(profit, order);
      while (std::next_permutation(order.begin(), order.end())) best = std::max(best, total(profit, order));
      REQUIRE(is_permutation(found));
      REQUIRE(std::abs(total(profit, found) - best) < 1e-12); // sums of seven numbers of order one
    }
}

TEST_CASE("linear_assignment of a hidden permutation of 300 and of what is not finite") {
  std::mt19937 engine(2);
  std::vector<index_t> hidden(300);
  std::iota(hidden.begin(), hidden.end(), 0);
  std::shuffle(hidden.begin(), hidden.end(), engine);
  std::vector<double> profit(300 * 300);
  std::uniform_real_distribution<double> below(0, 0.9);
  for (double& value : profit) value = below(engine);
  for (std::size_t u = 0; u < 300; ++u) profit[u * 300 + std::size_t(hidden[u])] = 1; // the largest of row and column
  REQUIRE(linear_assignment(profit, 300) == hidden);
  REQUIRE_THROWS_AS(linear_assignment({1, 2, NAN, 4}, 2), Error);
  REQUIRE_THROWS_AS(linear_assignment({1, 2, 3}, 2), Error);
}

TEST_CASE("usage is picks over their sum, and the tracker averages it exponentially") {
  REQUIRE(usage({3, 1, 0}) == std::vector<double>{0.75, 0.25, 0});
  REQUIRE(usage({0, 0}) == std::vector<double>{0, 0});
  UsageTracker tracker;
  tracker.update({4, 0});
  REQUIRE(tracker.alpha == std::vector<double>{1, 0});
  tracker.update({0, 0}); // nothing seen
  tracker.update({0, 7});
  REQUIRE(relative_error(tracker.alpha, {0.9, 0.1}) < 1e-15);
}

TEST_CASE("The budget of groups: as many as were asked for, at least one a layer, to the most used experts") {
  std::mt19937 engine(3);
  std::exponential_distribution<double> draw;
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<std::vector<double>> alpha(4, std::vector<double>(6));
    for (auto& layer : alpha)
      for (double& value : layer)
        value = trial % 3 == 0 ? 0.25 * int(2 * draw(engine)) : draw(engine); // with equal ones
    std::vector<bool> const merged{trial % 2 == 1, true, true, true};
    int const least = merged[0] ? 4 : 9;
    for (int requested = least; requested <= 24; requested += 3) {
      auto const groups = groups_of_layers(alpha, requested, merged);
      REQUIRE(std::accumulate(groups.begin(), groups.end(), 0) == requested);
      REQUIRE(*std::min_element(groups.begin(), groups.end()) >= 1);
      REQUIRE((merged[0] || groups[0] == 6));
    }
    REQUIRE_THROWS_AS(groups_of_layers(alpha, least - 1, merged), Error);
    REQUIRE_THROWS_AS(groups_of_layers(alpha, 25, merged), Error);
  }
  // Beside each layer's first, the three largest of 0.4, 0.3, 0.15, 0.05, 0.04, 0.03.
  REQUIRE(groups_of_layers({{0.5, 0.4, 0.05}, {0.9, 0.04, 0.03}, {0.3, 0.55, 0.15}}, 6) ==
          std::vector<index_t>{2, 1, 3});
}

TEST_CASE("Similarity is the cosine of logit columns, mapped to 0 to 1") {
  auto const s = logit_similarity({1, 2, -1, 0, /**/ 2, 4, -2, 0, /**/ 0, 0, 0, 0}, 4);
  REQUIRE(std::abs(s[0][1] - 1) < 1e-15);   // parallel
  REQUIRE(std::abs(s[0][2] - 0) < 1e-15);   // opposite
  REQUIRE(std::abs(s[0][3] - 0.5) < 1e-15); // no direction
  REQUIRE(s[1][2] == s[2][1]);
}

TEST_CASE("Experts join the dominant one that they are most alike, in order of usage, while it has room") {
  std::vector<double> const alpha{0.05, 0.4, 0.1, 0.3, 0.15};
  std::vector<std::vector<double>> s(5, std::vector<double>(5, 0.5));
  for (std::size_t e : {0, 2, 4}) s[e][1] = 0.9, s[e][3] = 0.6; // all want 1
  auto const free = group_experts(alpha, s, 2);
  REQUIRE(free.dominant == std::vector<index_t>{1, 3});
  REQUIRE(free.group_of_expert == std::vector<index_t>{0, 0, 0, 1, 0});
  auto const limited = group_experts(alpha, s, 2, 3); // 4 and 2 come first, 0 finds it full
  REQUIRE(limited.group_of_expert == std::vector<index_t>{1, 0, 0, 1, 0});
  REQUIRE(group_experts(alpha, s, 5).group_of_expert == std::vector<index_t>{4, 0, 3, 1, 2}); // nobody is merged
  REQUIRE_THROWS_AS(group_experts(alpha, s, 0), Error);
  REQUIRE_THROWS_AS(group_experts(alpha, s, 6), Error);
  REQUIRE_THROWS_AS(group_experts(alpha, s, 2, 2), Error);
}

/// Experts of 2, 3 or 4 units, whose weights come from a seed, in every storage order.
template <class Experts> auto filled(Experts const& policy, index_t experts, offset_t hidden) {
  using Exec = Kokkos::DefaultExecutionSpace;
  Exec const exec;
  Sizes sizes;
  sizes.weighted = experts, sizes.hidden = hidden;
  typename Experts::template Parameters<double, Exec> p(Allocator<Exec>(exec), policy, sizes);
  exec.fence();
  std::mt19937 engine(5);
  p.for_each([&](auto const&, auto const& view) { test::fill_uniform(test::tensor(view), engine); }, "");
  return p;
}

TEST_CASE("Clones of an expert with hidden units in random order are merged into it, if they are aligned") {
  FeedForwardExperts<SwiGlu> const policy{.intermediate = 24, .bias = true, .gate_up = GateUp::interleaved};
  auto const parameters = filled(policy, 6, 8);
  Kokkos::DefaultExecutionSpace const exec;
  auto experts = read_units(exec, policy, parameters);
  std::mt19937 engine(7);
  std::vector<index_t> order(24);
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t e = 1; e < experts.size(); ++e) {
    std::shuffle(order.begin(), order.end(), engine);
    experts[e] = permuted(experts[0], order);
  }
  Groups const one{std::vector<index_t>(6, 0), {2}};
  std::vector<double> const alpha{0.1, 0.3, 0.2, 0.1, 0.05, 0.25};
  auto const merged = merge_experts(experts, one, alpha);
  REQUIRE(merged.size() == 1);
  REQUIRE(relative_error(merged[0].units, experts[0].units) < 1e-6); // epsilon / sum alpha = 1e-7
  REQUIRE(relative_error(merged[0].down_bias, experts[0].down_bias) < 1e-6);
  auto const averaged = merge_experts(experts, one, alpha, {.align = false});
  REQUIRE(relative_error(averaged[0].units, experts[0].units) > 0.5); // nearly a mean of unrelated rows
}

TEST_CASE("Merged weights are averages by usage, to the letter") {
  ExpertUnits const a{1, 2, {1, 2}, {8}}, b{1, 2, {5, 6}, {4}};
  auto const merged = merge_experts({a, b, a}, {{0, 0, 1}, {1, 2}}, {0.25, 0.5, 0}, {.epsilon = 0.25});
  REQUIRE(merged[0].units == std::vector<double>{(0.25 * 1 + 0.5 * 5) / 1, (0.25 * 2 + 0.5 * 6) / 1});
  REQUIRE(merged[0].down_bias == std::vector<double>{(0.25 * 8 + 0.5 * 4) / 1});
  REQUIRE(merged[1].units == std::vector<double>{0, 0}); // unused: zero, as in the source
  REQUIRE_THROWS_AS(merge_experts({a, {2, 2, {1, 2, 3, 4}, {}}}, {{0, 0}, {0}}, {1, 1}), Error);
}

TEST_CASE("Units are read and written whatever the order of the weights") {
  Kokkos::DefaultExecutionSpace const exec;
  auto const round_trip = [&](auto const& policy) {
    auto const from = filled(policy, 2, 3);
    auto const units = read_units(exec, policy, from);
    auto const to = filled(policy, 2, 3);
    to.for_each([](auto const&, auto const& view) { test::poison_view(view); }, "");
    write_units(exec, policy, to, units);
    std::vector<Row> a, b;
    from.for_each([&](auto const&, auto const& view) { a.push_back(test::tensor(view).read()); }, "");
    to.for_each([&](auto const&, auto const& view) { b.push_back(test::tensor(view).read()); }, "");
    REQUIRE(a == b);
    return units;
  };
  using enum WeightOrder;
  for (bool const bias : {false, true})
    for (WeightOrder const order : {out_in, in_out}) {
      for (GateUp const gate_up : {GateUp::concatenated, GateUp::interleaved, GateUp::separate})
        round_trip(FeedForwardExperts<SwiGlu>{
            .intermediate = 4, .bias = bias, .gate_up = gate_up, .up_order = order, .down_order = order});
      round_trip(FeedForwardExperts<kokomo::Plain<Relu>>{
          .intermediate = 4, .bias = bias, .up_order = order, .down_order = order});
    }
  FeedForwardExperts<kokomo::Plain<Relu>> const plain{.intermediate = 2};
  auto const p = filled(plain, 2, 3);
  auto const units = round_trip(plain);
  auto const up = test::to_host(p.up), down = test::to_host(p.down);
  REQUIRE(units[0].units == std::vector<double>{up[0], up[1], up[2], down[0], down[2], down[4], //
                                                up[3], up[4], up[5], down[1], down[3], down[5]});
  REQUIRE_THROWS_AS(write_units(exec, plain, p, {}), Error);
}

} // namespace merge_experts_test
