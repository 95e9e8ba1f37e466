// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include "../support/scale_experts.hpp"

#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/models/product_keys.hpp>
#include <kokomo/router/cosine_scorer.hpp>
#include <kokomo/router/gumbel_top_k.hpp>
#include <kokomo/router/noisy_scorer.hpp>
#include <kokomo/router/positive.hpp>
#include <kokomo/router/top_p.hpp>

using namespace kokomo;
using kokomo::test::ScaleExperts;

namespace {

template <class Exec>
using ByMass = Layer<Router<CosineScorer, TopP>, SoftmaxGate, NoBalancer, ScaleExperts, float, Exec>;
template <class Exec>
using BySign = Layer<Router<NoisyScorer, Positive>, ReluGate, NoBalancer, ScaleExperts, float, Exec>;
template <class Exec>
using ByDraw = Layer<Router<LinearScorer, GumbelTopK>, SelectedSoftmaxGate, NoBalancer, ScaleExperts, float, Exec>;

template <class Exec> using ByKeys = models::Peer<float, Exec>;
template <class Exec>
using ByGrid = Layer<Router<GridScorer, PairTopK>, PairGate, NoBalancer, SingleNeuronExperts<Silu>, float, Exec>;

} // namespace

int token_routers() {
  int failed = 0;
  failed += !Run<ByMass>::agrees("ByMass", [](auto& p) { p.router.scorer.scale = 4; });
  failed += !Run<BySign>::agrees("BySign", [](auto& p) { p.router.scorer.seed = 3; });
  failed += !Run<ByDraw>::agrees("ByDraw", [](auto& p) { p.router.selector.k = 2; });
  failed += !Run<ByKeys>::agrees("ByKeys",
                                 [](auto& p) {
                                   p.router.scorer = {.heads = 2, .key_size = 5};
                                   p.router.selector.heads = p.gate.heads = 2;
                                 },
                                 {.tokens = 37, .hidden = 24, .experts = 9});
  failed += !Run<ByGrid>::agrees("ByGrid", [](auto&) {}, {.tokens = 37, .hidden = 24, .experts = 5041}); // sorted
  return failed;
}
