// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/router/mlp_scorer.hpp>
#include <kokomo/router/product_key_scorer.hpp>

using namespace kokomo;

namespace {

template <class Exec>
using WithNetwork = Layer<Router<MlpScorer, TopK<1>>, SoftmaxGate, NoBalancer, SwiGluExperts, float, Exec>;
template <class Exec>
using WithPairs = Layer<Router<ProductKeyScorer, TopK<2, RankByLogits>>, SelectedSoftmaxGate, NoBalancer,
                        AnyPlainExperts, float, Exec>;

} // namespace

int scorers() {
  int failed = 0;
  failed += !Run<WithNetwork>::agrees("WithNetwork", [](auto& p) {
    p.router.scorer.state_size = 5;
    p.experts.intermediate = 16;
  });
  failed += !Run<WithPairs>::agrees("WithPairs", [](auto& p) { p.experts.intermediate = 1; },
                                    {.tokens = 37, .hidden = 24, .experts = 9});
  return failed;
}
