// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <discipline/check.hpp>

#include <kokomo/router/mlp_scorer.hpp>
#include <kokomo/router/product_key_scorer.hpp>

using namespace kokomo;

TEST_CASE("discipline: a scorer of three layers that reads the states of the layer below") {
  using Composition = Layer<Router<MlpScorer, TopK<>>, SoftmaxGate, NoBalancer, AnyPlainExperts>;
  Composition::Policies policies;
  policies.router.scorer.state_size = 5;
  policies.router.scorer.previous_states = true;
  policies.experts.intermediate = 8;
  discipline::check<Composition>(policies);
}

TEST_CASE("discipline: product keys") {
  using Composition = Layer<Router<ProductKeyScorer, TopK<>>, SoftmaxGate, NoBalancer, AnyGluExperts>;
  Composition::Policies policies;
  policies.experts.intermediate = 8;
  discipline::check<Composition>(policies, 33, 0, 9);
}
