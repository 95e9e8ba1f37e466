// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_BATCH_ROUTING_HPP
#define KOKOMO_MODELS_BATCH_ROUTING_HPP

#include <kokomo/adjust/selective_sinkhorn.hpp>
#include <kokomo/models/description.hpp>
#include <kokomo/router/expert_choice.hpp>
#include <kokomo/router/sinkhorn_top_k.hpp>

/// Published routings that decide over a whole batch: docs/families/batch_routing.md.
namespace kokomo::inline v0::models {

/// Experts take their best tokens; the weight is the score, not normalised.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Gate = SoftmaxGate>
using ExpertChoiceMoe = Layer<Router<LinearScorer, ExpertChoice>, Gate, NoBalancer, AnyGluExperts, T, Exec>;
/// The same with weights normalised over the experts that chose a token (Nucleus-Image).
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using ExpertChoiceNormalized = ExpertChoiceMoe<T, Exec, NormalizedSoftmaxGate>;

/// Megatron's Sinkhorn routing of one expert a token, weighed by the sigmoid of its logit.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using SinkhornMegatron = Layer<Router<LinearScorer, SinkhornTopK>, SigmoidGate, NoBalancer, AnyGluExperts, T, Exec>;
/// And of several, weighed by their softmax over all experts.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using SinkhornMegatronTopK = Layer<Router<LinearScorer, SinkhornTopK>, SoftmaxGate, NoBalancer, AnyGluExperts, T, Exec>;

/// Top-k of the softmax, and on few training steps of a transport plan.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using SelectiveSinkhornRouting =
    Layer<Router<LinearScorer, TopK<>>, NormalizedSoftmaxGate, NoBalancer, AnyGluExperts, T, Exec, SelectiveSinkhorn>;

inline void configure(ExpertChoice& p, Description const& d) {
  p.places = d.capacity;
  p.tokens_per_sequence = d.tokens_per_sequence;
}
inline void configure(SinkhornTopK& p, Description const& d) {
  p.k = d.top_k;
}

} // namespace kokomo::inline v0::models

#endif
