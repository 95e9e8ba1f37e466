// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <discipline/check.hpp>

#include <kokomo/models/batch_routing.hpp>
#include <kokomo/models/placed.hpp>
#include <kokomo/models/product_keys.hpp>

#include <support/scale_experts.hpp>

using namespace kokomo;

using Host = Kokkos::DefaultExecutionSpace;

TEST_CASE("discipline: a predictor beside the router, shares of tokens and their loss") {
  using Composition = Layer<Router<PredictedScorer<>, ExpertChoice>, ScoreGate<ExponentialScore, Normalize::count>,
                            TokenCoverageLoss, kokomo::test::ScaleExperts, float, Host, TokenSoftmax>;
  Composition::Policies policies;
  policies.router.scorer.predictor.hidden = 8;
  policies.router.selector.tokens_per_sequence = policies.adjust.tokens_per_sequence = 10;
  policies.router.selector.inference = InferenceChoice::predicted;
  discipline::check<Composition>(policies);
}

TEST_CASE("discipline: batch norm of keys") {
  using Composition = models::OmniMoeNormalized<float, Host>;
  Composition::Policies policies;
  models::configure_omni_moe_normalized(policies, 2, 3);
  policies.experts.count = 1;
  policies.experts.shared.intermediate = 8;
  discipline::check<Composition>(policies);
}

TEST_CASE("discipline: merged experts of low rank plus rows") {
  using Composition = models::CompressedMcSmoe<Layer<Router<LinearScorer, TopK<2>>, SoftmaxGate, NoBalancer>>;
  Composition::Policies policies;
  policies.experts.intermediate = 9;
  policies.experts.rank = 2;
  policies.experts.kept_hidden = 3;
  policies.experts.kept_out = 4;
  policies.placement.stored = 5;
  discipline::check<Composition>(policies);
}
