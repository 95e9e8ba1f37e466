// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_DR_LLM_HPP
#define KOKOMO_MODELS_DR_LLM_HPP

#include <kokomo/balancer/focal_loss.hpp>
#include <kokomo/experts/repeated.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/window_scorer.hpp>

namespace kokomo::inline v0::models {

/// Dr.LLM: a sequence skips a block, runs it, or runs it twice, as its windows' means decide; the decision is taught by labels.
/// The block is a feed-forward one with its residual connection (Shape::experts = 1); the source's is a transformer layer.
/// Source: parameterlab/dr-llm. docs/families/dr_llm.md
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using DrLlm = Layer<Router<WindowScorer<>, TopK<1, RankByLogits>>, ConstantGate, FocalLoss<Exec>,
                    RepeatedExperts<Experts>, T, Exec>;

} // namespace kokomo::inline v0::models

#endif
