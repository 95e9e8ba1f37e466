// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <discipline/check.hpp>

#include <kokomo/balancer/preference_loss.hpp>
#include <kokomo/models/batch_routing.hpp>
#include <kokomo/models/dense_to_sparse.hpp>
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

TEST_CASE("discipline: batch norm of queries, whose moments are a scorer's state") {
  using Composition = models::PeerNormalized<float, Host>;
  Composition::Policies policies;
  policies.router.scorer.keys = {.heads = 2, .key_size = 4};
  policies.router.selector = {.k = 2, .heads = 2};
  policies.gate.heads = 2;
  discipline::check<Composition>(policies, 33, 0, /*experts*/ 9);
}

TEST_CASE("discipline: shares of the best experts, a preference") {
  using Composition = Layer<Router<LinearScorer, ExpertChoice>, ConstantGate, PreferenceLoss<Host>,
                            kokomo::test::ScaleExperts, float, Host, TopKShares>;
  Composition::Policies policies;
  models::configure_union_of_experts_data(policies, 2, 10);
  policies.balancer.target = OwnedVector<double, Host>("target", 1000);
  discipline::check<Composition>(policies);
}
