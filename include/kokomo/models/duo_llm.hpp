// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_DUO_LLM_HPP
#define KOKOMO_MODELS_DUO_LLM_HPP

#include <kokomo/balancer/budget_loss.hpp>
#include <kokomo/experts/mixed.hpp>
#include <kokomo/experts/with_identity.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/layer.hpp>

namespace kokomo::inline v0::models {

/// Duo-LLM: a token takes the big expert, the small one, or neither, whole (weight one). For a layer with a residual
/// connection around it, which a bypassed token takes alone. Experts 0, 1 and 2, two of them with weights.
/// Source: notes on the paper (arXiv 2410.10846). docs/families/duo_llm.md
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace,
          class Experts = MixedExperts<SwiGluExperts, SwiGluExperts>>
using DuoLlm =
    Layer<Router<LinearScorer, TopK<1, RankByLogits>>, ConstantGate, NoBalancer, WithIdentity<Experts>, T, Exec>;

/// The same while its router learns: all experts mixed by the softmax of the logits over a temperature, which is lowered
/// with the steps, and the budget of all layers together. Parameters are those of DuoLlm.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace,
          class Experts = MixedExperts<SwiGluExperts, SwiGluExperts>>
using DuoLlmTraining =
    Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, BudgetLoss<Exec>, WithIdentity<Experts>, T, Exec>;

/// Sizes of both, in either: the source's are 10240 and 640 on a width of 2560.
template <class P> constexpr void configure_duo_llm(P& policies, offset_t big, offset_t small, bool bypass) {
  std::get<0>(policies.experts.inner.parts).intermediate = big;
  std::get<1>(policies.experts.inner.parts).intermediate = small;
  policies.experts.zero = bypass ? 1 : 0;
  if constexpr (requires { policies.balancer.budget; }) policies.router.selector.k = bypass ? 3 : 2;
}

/// The temperature of DuoLlmTraining: a Layer is its settings, so each step may make a new one.
/// \throws kokomo::Error 106 unless temperature > 0
template <class P> void set_temperature(P& policies, float temperature) {
  kokomo::detail::require(temperature > 0, 106, "Duo-LLM temperature = ", temperature, ", expected > 0");
  policies.router.scorer.multiplier = 1 / temperature;
}

} // namespace kokomo::inline v0::models

#endif
