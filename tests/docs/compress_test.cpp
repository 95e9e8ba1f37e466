// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/compress/group_experts.hpp>
#include <kokomo/compress/linear_assignment.hpp>
#include <kokomo/compress/low_rank.hpp>
#include <kokomo/compress/merge_experts.hpp>

TEST_CASE("linear_assignment") {
  // [snippet:linear_assignment]
  auto const order = kokomo::compress::linear_assignment({9, 8, 1, //
                                                          8, 2, 1, //
                                                          5, 4, 3},
                                                         3);
  REQUIRE(order == std::vector<kokomo::index_t>{1, 0, 2}); // 8 + 8 + 3; with 9 it would be 9 + 2 + 3
  // [/snippet]
}

TEST_CASE("group_experts") {
  // [snippet:group_experts]
  namespace compress = kokomo::compress;
  auto const alpha = compress::usage({50, 10, 30, 10});            // picks: stats::loads(exec, layer, tape).rows
  auto const similarity = compress::logit_similarity({1, 0, -1, 1, //
                                                      2, -1, -1, 2},
                                                     4); // of two tokens
  auto const groups = compress::group_experts(alpha, similarity, 2);
  REQUIRE(groups.dominant == std::vector<kokomo::index_t>{0, 2});
  REQUIRE(groups.group_of_expert == std::vector<kokomo::index_t>{0, 1, 1, 0}); // 3 has the logits of 0
  auto const other = compress::usage({70, 10, 10, 10});
  REQUIRE(compress::groups_of_layers({alpha, other}, 3) == std::vector<kokomo::index_t>{2, 1}); // of three groups
  // [/snippet]
}

TEST_CASE("low_rank") {
  // [snippet:low_rank]
  namespace compress = kokomo::compress;
  auto const parts =
      compress::low_rank({4, 0, 0, 2, 0, 1}, /*rows*/ 3, /*columns*/ 2, /*rank*/ 1); // 4 is kept, 2 and 1 left
  REQUIRE(close(Table<double>{parts.u, parts.v, parts.s}, Table<double>{{2, 0, 0}, {2, 0}, {0, 0, 0, 2, 0, 1}}));
  auto const rows = compress::kept_rows({compress::row_magnitude(parts)}, {2}, /*keep*/ 0.3);
  REQUIRE(rows[0] == std::vector<kokomo::index_t>{1, 2});
  compress::KeepSchedule const keep{.steps = 1500};
  REQUIRE(std::abs(keep(600) - (0.1 + 0.9 / 8)) < 1e-12); // half way between the warm-ups
  // [/snippet]
}

TEST_CASE("merge_experts") {
  // [snippet:merge_experts]
  namespace compress = kokomo::compress;
  using Layer = kokomo::Layer<>;
  Example<Layer> run({.tokens = 1, .hidden = 3, .experts = 2}, {.experts = {.intermediate = 4}});
  auto const& policy = run.layer.policies().experts;
  auto experts = compress::read_units(run.exec, policy, run.parameters.experts);
  experts[1] = compress::permuted(experts[0], {3, 1, 0, 2}); // the same function
  auto const merged = compress::merge_experts(experts, {{0, 0}, {1}}, {0.25, 0.75});
  REQUIRE(close(Table<double>{merged[0].units}, Table<double>{experts[0].units}));
  compress::write_units(run.exec, policy, run.parameters.experts, {merged[0], merged[0]});
  // [/snippet]
}
