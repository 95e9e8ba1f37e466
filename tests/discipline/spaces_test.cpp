// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <discipline/check.hpp>

#include <kokomo/combine/normalized_sum.hpp>
#include <kokomo/experts/row_norm.hpp>
#include <kokomo/experts/with_identity.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/joint.hpp>
#include <kokomo/router/hash.hpp>
#include <kokomo/router/normalized_scorer.hpp>
#include <kokomo/space/latent.hpp>
#include <kokomo/space/normalized_input.hpp>

using namespace kokomo;
using Exec = Kokkos::DefaultExecutionSpace;

TEST_CASE("discipline: hash table, identity experts, latent space with a norm, normalised sum") {
  using Composition = Layer<Router<LinearScorer, HashTable>, ConstantGate, NoBalancer, WithIdentity<SwiGluExperts>,
                            float, Exec, Latent, NormalizedSum>;
  Composition::Policies policies;
  policies.router.selector = {.k = 2, .vocabulary = 3};
  policies.experts.inner.intermediate = 9;
  policies.experts.identity = 2;
  policies.experts.zero = 1;
  policies.space.size = 7;
  policies.space.norm = true;
  discipline::check<Composition>(policies);
}

TEST_CASE("discipline: joint gate, shared experts, row norm, normalised input and scorer") {
  using Composition = Layer<Router<NormalizedScorer, TopK<2>>, JointSigmoidGate, NoBalancer,
                            WithShared<RowNorm<SwiGluExperts>, JointShare, GeGluExperts>, float, Exec, NormalizedInput>;
  Composition::Policies policies;
  policies.experts.routed.inner.intermediate = 9;
  policies.experts.shared.intermediate = 4;
  policies.experts.count = 2;
  discipline::check<Composition>(policies);
}
