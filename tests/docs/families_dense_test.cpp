// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/dense_to_sparse.hpp>

TEST_CASE("dense_to_sparse") {
  // [snippet:dense_to_sparse]
  // A dense network of six hidden columns. What excites them in two domains says which columns an expert gets.
  auto const active = kokomo::active_columns({{6, 5, 1, 4, 0, 2}, {6, 1, 5, 0, 4, 2}}, /*share*/ 4.0 / 6);
  REQUIRE(active.residual.size() == 1); // both need column 0: the shared expert
  using Layer = kokomo::models::ReadMe<>;
  Layer::Policies policies;
  policies.router.selector.k = 1;
  policies.experts = {.routed = {.intermediate = 2}, .shared = {.intermediate = 1}, .count = 1};
  Example<Layer> dense(
      {.tokens = 3, .hidden = 4, .experts = 1},
      {.router = policies.router, .experts = {.routed = {.intermediate = 6}, .shared = {.intermediate = 1}}});
  Example<Layer> run({.tokens = 3, .hidden = 4, .experts = 2}, policies);
  for (kokomo::index_t e = 0; e < 2; ++e)
    kokomo::copy_columns<float>(run.exec, dense.layer.policies().experts.routed, dense.parameters.experts,
                                policies.experts.routed, run.parameters.experts, e, active.of_domain[std::size_t(e)]);
  kokomo::copy_columns<float>(run.exec, dense.layer.policies().experts.routed, dense.parameters.experts,
                              policies.experts.shared, run.parameters.shared.experts, 0, active.residual);
  run.forward();
  REQUIRE(close(run.weights(), {{1}, {1}, {1}})); // no weight of the gate
  // [/snippet]
}

TEST_CASE("union_of_experts_data") {
  // [snippet:union_of_experts_data]
  using Layer = kokomo::models::UnionOfExpertsData<float, Kokkos::DefaultExecutionSpace, kokomo::ConstantGate,
                                                   kokomo::SwiGluExperts>;
  Layer::Policies policies{.experts = {.intermediate = 2}};
  kokomo::models::configure_union_of_experts_data(policies, /*k*/ 2, /*tokens_per_sequence*/ 4);
  policies.adjust.over = kokomo::ShareOver::experts;
  Example<Layer> run({.tokens = 4, .hidden = 3, .experts = 3}, policies);
  run.set_logits({{std::log(3.0), 0, -9},   // its two best: shares 3/4, 1/4
                  {0, -9, 0},               // 1/2, -, 1/2
                  {-9, std::log(9.0), 0},   // -, 9/10, 1/10
                  {0, -9, std::log(3.0)}}); // 1/4, -, 3/4
  run.forward();
  // Half of the tokens each: expert 0 takes tokens 0 and 1, expert 1 tokens 2 and 0, expert 2 tokens 3 and 1.
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}, {0, 2}, {1}, {2}});
  REQUIRE(close(run.weights(), {{1, 1}, {1, 1}, {1}, {1}})); // added up without the shares
  // [/snippet]
}
