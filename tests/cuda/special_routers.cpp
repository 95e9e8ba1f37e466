// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/experts/row_norm.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/joint.hpp>
#include <kokomo/gate/sparse_mixer.hpp>
#include <kokomo/router/given.hpp>
#include <kokomo/router/hash.hpp>
#include <kokomo/router/sparse_mixer.hpp>
#include <kokomo/space/latent.hpp>

using namespace kokomo;

namespace {

template <class Exec>
using LatentRowNorm = Layer<Router<LinearScorer, SparseMixer>, SparseMixerGate, NoBalancer,
                            RowNorm<SoftcappedSwiGluExperts>, double, Exec, Latent>;
template <class Exec>
using HashJoint = Layer<Router<LinearScorer, HashTable>, JointSigmoidGate, NoBalancer,
                        WithShared<AnyGluExperts, JointShare>, float, Exec>;
template <class Exec>
using GivenConstant = Layer<Router<LinearScorer, Given>, ConstantGate, NoBalancer, AnyPlainExperts, float, Exec>;

} // namespace

int special_routers() {
  int failed = 0;
  failed += !Run<LatentRowNorm>::agrees("LatentRowNorm", [](auto& p) {
    p.experts.inner.intermediate = 16;
    p.space = {.size = 8, .norm = true};
    p.router.selector.epsilon = p.gate.epsilon = 0.3f;
  });
  failed += !Run<HashJoint>::agrees("HashJoint", [](auto& p) {
    p.router.selector = {.k = 2, .vocabulary = 5};
    p.experts.routed.intermediate = p.experts.shared.intermediate = 16;
    p.experts.count = 2;
  });
  failed += !Run<GivenConstant>::agrees("GivenConstant", [](auto& p) {
    p.router.selector.k = 2;
    p.experts.intermediate = 16;
  });
  return failed;
}
