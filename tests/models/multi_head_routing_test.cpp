// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/models/multi_head_routing.hpp>

namespace multi_head_routing_test {

using namespace kokomo;
using namespace kokomo::test;

/// A layer with a task for each token. `at(view, i, j, k)` of [n, a, b] tensors on the host.
template <class Layer> struct Subject : Fixture<Layer> {
  OwnedVector<index_t, Exec> task;
  std::vector<index_t> tasks;
  index_t splits, skills;
  offset_t rank;

  Subject(std::vector<index_t> const& task_of_token, offset_t hidden, index_t splits_, index_t skills_, offset_t rank_)
      : Fixture<Layer>({.tokens = offset_t(task_of_token.size()), .hidden = hidden, .experts = splits_ * skills_},
                       policies(splits_, skills_, rank_), 5),
        task("task", task_of_token.size()), tasks(task_of_token), splits(splits_), skills(skills_), rank(rank_) {
    to_device(tasks, task);
    this->more_inputs = [this](typename Layer::Inputs& in) { in.scorer.row_of_token = task; };
  }
  static typename Layer::Policies policies(index_t splits, index_t skills, offset_t rank) {
    typename Layer::Policies p;
    models::configure_multi_head_routing(p, 3, splits, skills, rank);
    p.experts.scale = 0.5f;
    return p;
  }
  /// Weight of skill k in split s for a row of the table.
  double weight(index_t row, index_t s, index_t k) const {
    auto const z = in_rows(in_double(to_host(this->parameters.router.table)), 3)[std::size_t(row)];
    auto const sigmoid = [&](index_t i) { return 1 / (1 + std::exp(-z[std::size_t(s * skills + i)])); };
    double sum = double(1e-12f);
    for (index_t i = 0; i < skills; ++i) sum += sigmoid(i);
    return sigmoid(k) / sum;
  }
};

/// Merges the matrices first, as the source does: A [hidden, rank], B [rank, hidden].
template <class S, class Weight> Rows merged_output(S const& s, Weight const& weight) {
  auto const hidden = std::size_t(s.layer.shape().hidden), rank = std::size_t(s.rank),
             width = hidden / std::size_t(s.splits);
  auto const in = in_double(to_host(s.parameters.experts.in)), out = in_double(to_host(s.parameters.experts.out));
  auto const x = in_rows(in_double(to_host(s.x)), s.tasks.size());
  Rows y(x.size(), Row(hidden, 0.0));
  for (std::size_t t = 0; t < x.size(); ++t) {
    Rows A(hidden, Row(rank, 0.0)), B(rank, Row(hidden, 0.0));
    for (index_t split = 0; split < s.splits; ++split)
      for (index_t k = 0; k < s.skills; ++k) {
        auto const e = std::size_t(split * s.skills + k);
        double const w = weight(s.tasks[t], split, k);
        for (std::size_t h = 0; h < width; ++h)
          for (std::size_t r = 0; r < rank; ++r) {
            A[std::size_t(split) * width + h][r] += w * in[(e * width + h) * rank + r];
            B[r][std::size_t(split) * width + h] += w * out[(e * rank + r) * width + h];
          }
      }
    for (std::size_t r = 0; r < rank; ++r) {
      double u = 0;
      for (std::size_t h = 0; h < hidden; ++h) u += x[t][h] * A[h][r];
      for (std::size_t h = 0; h < hidden; ++h) y[t][h] += 0.5 * u * B[r][h];
    }
  }
  return y;
}

using Mhr = models::MultiHeadRouting<double, Exec>;

TEST_CASE("multi-head routing: matrices averaged by task and split, then applied, gradients of all of them") {
  for (auto const& [splits, skills] : {std::pair(1, 3), std::pair(3, 2), std::pair(6, 1)}) {
    Subject<Mhr> s({0, 2, 1, 1, 0}, 6, splits, skills, 2);
    s.forward();
    CHECK(relative_error(flat(s.result().y), flat(merged_output(s, [&](index_t row, index_t split, index_t k) {
                           return s.weight(row, split, k);
                         }))) < 1e-12); // sums of a dozen terms in another order
    check_gradients(s);
  }
}

TEST_CASE("a table of zeros averages all skills alike, as MHR-mu does for every table") {
  Subject<Mhr> s({0, 2, 1}, 6, 2, 4, 3);
  Kokkos::deep_copy(s.parameters.router.table, 0.0);
  s.forward();
  Subject<models::MultiHeadMean<double, Exec>> mean({0, 2, 1}, 6, 2, 4, 3);
  mean.forward(); // the same seed: the same adapters, a table that does not matter
  CHECK(relative_error(flat(s.result().y), flat(mean.result().y)) < 1e-11); // epsilon, and the order of sums
}

TEST_CASE("averaging parameters is not averaging outputs, but for a single skill") {
  Subject<Mhr> s({0}, 4, 1, 2, 1);
  s.forward();
  auto const y = s.result().y[0];
  auto const in = in_double(to_host(s.parameters.experts.in)), out = in_double(to_host(s.parameters.experts.out)),
             x = in_double(to_host(s.x));
  double const w[2] = {s.weight(0, 0, 0), s.weight(0, 0, 1)};
  Row expected, outputs;
  double along = 0; // x (A_0 - A_1)
  for (std::size_t h = 0; h < 4; ++h) along += x[h] * (in[h] - in[4 + h]);
  for (std::size_t h = 0; h < 4; ++h) {
    double mixed = 0;
    for (std::size_t k = 0; k < 2; ++k) {
      double u = 0;
      for (std::size_t i = 0; i < 4; ++i) u += x[i] * in[4 * k + i];
      mixed += 0.5 * w[k] * u * out[4 * k + h];
    }
    // sum_k w_k A_k sum_k w_k B_k = sum_k w_k A_k B_k - w_0 w_1 (A_0 - A_1)(B_0 - B_1)
    expected.push_back(mixed - 0.5 * w[0] * w[1] * along * (out[h] - out[4 + h]));
    outputs.push_back(mixed);
  }
  CHECK(relative_error(y, expected) < 1e-10); // with weights that sum to one but for the gate's epsilon, 1e-12
  CHECK(relative_error(y, outputs) > 0.01);
  to_device(Row{60, -60, 0, 0, 0, 0}, s.parameters.router.table); // task 0 has one skill
  s.forward();
  double u = 0;
  for (std::size_t i = 0; i < 4; ++i) u += x[i] * in[i];
  for (std::size_t h = 0; h < 4; ++h) REQUIRE(s.result().y[0][h] == Approx(0.5 * u * out[h]).epsilon(1e-10));
}

TEST_CASE("a split's weights move its own input rows and output columns alone") {
  Subject<Mhr> s({1, 1}, 4, 2, 2, 2);
  auto x = to_host(s.x);
  for (std::size_t t = 0; t < 2; ++t) x[4 * t] = x[4 * t + 1] = 0; // nothing enters by split 0
  to_device(x, s.x);
  s.forward();
  auto const before = s.result().y;
  auto table = to_host(s.parameters.router.table);
  table[4] += 1; // task 1, split 0, skill 0
  to_device(table, s.parameters.router.table);
  s.forward();
  auto const after = s.result().y;
  for (std::size_t t = 0; t < 2; ++t) {
    REQUIRE((after[t][0] != before[t][0] && after[t][1] != before[t][1]));
    REQUIRE((after[t][2] == before[t][2] && after[t][3] == before[t][3]));
  }
}

TEST_CASE("merged adapters: settings that make no sense, padding") {
  auto const with = [](index_t splits, offset_t rank) {
    auto policies = Subject<Mhr>::policies(splits, 2, rank);
    policies.router.selector.k = 2;
    return Mhr({.tokens = 2, .hidden = 6, .experts = 8}, policies);
  };
  REQUIRE_NOTHROW(with(2, 1));
  REQUIRE_THROWS_AS(with(4, 1), Error); // of 6 columns
  REQUIRE_THROWS_AS(with(3, 1), Error); // of 8 experts
  REQUIRE_THROWS_AS(with(2, 0), Error);
  Subject<Mhr> s({0, 2, 1}, 6, 2, 2, 1);
  s.set_mask({1, 0, 1});
  s.forward();
  auto const out = s.result();
  for (double const v : out.y[1]) REQUIRE(v == 0);
  check_gradients(s);
}

} // namespace multi_head_routing_test
