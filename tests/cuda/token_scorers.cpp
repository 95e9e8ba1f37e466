// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include "../support/scale_experts.hpp"

#include <kokomo/experts/autonomous.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/router/activation_norm_scorer.hpp>
#include <kokomo/router/agreement.hpp>
#include <kokomo/router/cascade.hpp>
#include <kokomo/router/escalate.hpp>
#include <kokomo/router/layer_norm_scorer.hpp>
#include <kokomo/router/no_scorer.hpp>
#include <kokomo/router/percentile.hpp>
#include <kokomo/router/pooled_scorer.hpp>
#include <kokomo/router/sum_scorer.hpp>
#include <kokomo/router/table_scorer.hpp>
#include <kokomo/router/two_choice_hash.hpp>

using namespace kokomo;
using kokomo::test::ScaleExperts;

namespace {

template <class Exec, class Scorer, class Selector, class Gate = SoftmaxGate>
using Cheap = Layer<Router<Scorer, Selector>, Gate, NoBalancer, ScaleExperts, float, Exec>;
template <class Exec>
using BySequence = Cheap<Exec, SumScorer<LayerNormScorer, PooledScorer<>>, Percentile<PercentileScope::batch>>;
template <class Exec> using ByTask = Cheap<Exec, TableScorer, Cascade>;
template <class Exec> using ByProbes = Cheap<Exec, LinearScorer, Agreement>;
template <class Exec> using ByRequest = Cheap<Exec, LinearScorer, Escalate>;
template <class Exec> using ByTwoHashes = Cheap<Exec, NoScorer, TwoChoiceHash, ConstantGate>;
template <class Exec>
using ByNorm = Layer<Router<ActivationNormScorer, TopK<2>>, SoftmaxGate, NoBalancer, AutonomousExperts, float, Exec>;

} // namespace

int token_scorers() {
  int failed = 0;
  failed += !Run<BySequence>::agrees("BySequence", [](auto& p) { p.router.scorer.second.tokens_per_sequence = 5; });
  failed += !Run<ByTask>::agrees("ByTask", [](auto&) {});
  failed += !Run<ByProbes>::agrees("ByProbes", [](auto&) {});
  failed += !Run<ByRequest>::agrees("ByRequest", [](auto&) {});
  failed += !Run<ByTwoHashes>::agrees("ByTwoHashes", [](auto&) {});
  failed += !Run<ByNorm>::agrees("ByNorm", [](auto& p) {
    p.router.scorer.width = p.experts.cached = 5;
    p.experts.intermediate = 12;
  });
  return failed;
}
