// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "preset.hpp"

#include <kokomo/models/adaptive_routing.hpp>

/// Presets that decide by task, request or sequence, as whole layers.

namespace request_routing_test {

using namespace kokomo;
using namespace kokomo::test;

TEST_CASE("Glider: LayerNorm products plus a request's similarities, softmax over the two best") {
  using Layer = models::Glider<double, Exec, ScaleExperts>;
  for (float const scale : {0.0f, 3.0f}) {
    Fixture<Layer> f({.tokens = 7, .hidden = 5, .experts = 4},
                     {.router = {.scorer = {.second = {.rows = 3}, .scale = scale}, .selector = {.k = 2}}}, 6);
    OwnedVector<index_t, Exec> const request("request", 7);
    std::vector<index_t> const rows{0, 0, 1, 1, 2, 2, -1}; // the last token has no request: its own score alone
    to_device(rows, request);
    f.more_inputs = [&](Layer::Inputs& in) { in.scorer.second.row_of_token = request; };
    f.forward();
    auto normed = matrix_of(f.x);
    for (auto& row : normed) {
      double mean = 0, variance = 0;
      for (double const v : row) mean += v / 5;
      for (double const v : row) variance += (v - mean) * (v - mean) / 5;
      for (double& v : row) v = (v - mean) / std::sqrt(variance + double(1e-5f)) / std::sqrt(5.0);
    }
    auto z = products(normed, matrix_of(f.parameters.router.first.weight));
    auto const table = matrix_of(f.parameters.router.second.table);
    Weights expected;
    for (std::size_t t = 0; t < 7; ++t) {
      for (std::size_t e = 0; e < 4 && rows[t] >= 0; ++e) z[t][e] += scale * table[std::size_t(rows[t])][e];
      expected.push_back(softmax_over(z[t], best(z[t], 2)));
    }
    check_preset(f, expected);
  }
}

TEST_CASE("TaskRouting: all experts, weighed by the sigmoids of the task's row over their sum") {
  using Layer = models::TaskRouting<double, Exec, ScaleExperts>;
  Fixture<Layer> f({.tokens = 5, .hidden = 4, .experts = 3}, {.router = {.scorer = {.rows = 2}, .selector = {.k = 3}}},
                   7);
  OwnedVector<index_t, Exec> const task("task", 5);
  std::vector<index_t> const tasks{1, 0, 0, 1, 1};
  to_device(tasks, task);
  f.more_inputs = [&](Layer::Inputs& in) { in.scorer.row_of_token = task; };
  f.forward();
  auto const table = matrix_of(f.parameters.router.table);
  auto const sigmoid = [](double z) { return 1 / (1 + std::exp(-z)); };
  Weights expected;
  for (index_t const row : tasks) {
    double sum = 0;
    for (double const z : table[std::size_t(row)]) sum += sigmoid(z);
    expected.emplace_back();
    for (int e = 0; e < 3; ++e) expected.back()[e] = sigmoid(table[std::size_t(row)][std::size_t(e)]) / sum;
  }
  check_preset(f, expected);
}

TEST_CASE("NanoVla: a request goes to the heavy expert where it is likely to win") {
  using Layer = models::NanoVla<double, Exec, ScaleExperts>;
  int heavy = 0, light = 0;
  for (unsigned seed = 1; seed <= 8; ++seed) {
    Fixture<Layer> f({.tokens = 7, .hidden = 4, .experts = 2},
                     {.router = {.scorer = {.tokens_per_sequence = 3}, .selector = {.tau = 0.55f}}}, seed);
    f.forward();
    auto const x = matrix_of(f.x), weight = matrix_of(f.parameters.router.weight);
    Weights expected;
    for (std::size_t t = 0; t < 7; ++t) {
      std::size_t const begin = t / 3 * 3, end = std::min(begin + 3, x.size());
      Row mean(4, 0.0);
      for (std::size_t i = begin; i < end; ++i)
        for (std::size_t h = 0; h < 4; ++h) mean[h] += x[i][h] / double(end - begin);
      auto const z = products({mean}, weight)[0];
      bool const wins = 1 / (1 + std::exp(z[0] - z[1])) > double(0.55f);
      (wins ? heavy : light) += 1;
      expected.push_back({{wins ? 1 : 0, 1.0}});
    }
    check_preset(f, expected);
  }
  REQUIRE((heavy > 0 && light > 0));
}

} // namespace request_routing_test
