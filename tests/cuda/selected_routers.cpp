// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/experts/with_identity.hpp>
#include <kokomo/gate/on_input.hpp>
#include <kokomo/gate/selected_softmax.hpp>

using namespace kokomo;

namespace {

template <class Exec>
using SelectedClamped = Layer<Router<LinearScorer, TopK<dynamic, RankByLogits>>, SelectedSoftmaxGate, NoBalancer,
                              ClampedSwiGluExperts, float, Exec>;
template <class Exec>
using WeightOnInput = Layer<Router<LinearScorer, TopK<>>, OnInput<SigmoidGate>, NoBalancer,
                            WithShared<WithIdentity<AnyGluExperts>, SigmoidShare>, float, Exec>;

} // namespace

int selected_routers() {
  int failed = 0;
  failed += !Run<SelectedClamped>::agrees("SelectedClamped", [](auto& p) {
    p.experts.intermediate = 16;
    p.experts.bias = true;
    p.experts.gate_up = GateUp::interleaved;
    p.experts.up_order = p.experts.down_order = WeightOrder::in_out;
    p.experts.activation = {.alpha = 1.702f, .gate_max = 0.5f, .up_limit = 0.5f, .up_offset = 1};
  });
  failed += !Run<WeightOnInput>::agrees("WeightOnInput", [](auto& p) {
    p.experts.routed.inner.intermediate = p.experts.shared.intermediate = 16;
    p.experts.routed.identity = 2;
    p.experts.routed.zero = 1;
  });
  return failed;
}
