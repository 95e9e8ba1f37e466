// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_FUSION_ROUTE_HPP
#define KOKOMO_MODELS_FUSION_ROUTE_HPP

#include <kokomo/balancer/disagreement_loss.hpp>
#include <kokomo/combine/logit_add.hpp>
#include <kokomo/experts/given_outputs.hpp>
#include <kokomo/experts/pass_through.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/complemented.hpp>

namespace kokomo::inline v0::models {

/// FusionRoute in a layer: one expert, and what the router itself has to add, y = E(x) + C(h). Reconstructed: the paper
/// works on vocabularies, as FusionHead does. Source: notes on the paper (arXiv 2601.05106). docs/families/fusion_route.md
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using FusionRoute =
    Layer<Router<Complemented<LinearScorer>, TopK<1, RankByLogits>>, ConstantGate, NoBalancer, Experts, T, Exec>;

/// FusionRoute over a vocabulary: x are the router model's own logits, `router_input` its hidden states, the experts'
/// logits are given; y = log softmax(log softmax(E) + log softmax(x)) of the expert that the hidden states choose. hidden is the
/// size of the vocabulary. Both Views of the experts' logits, in `experts.routed` and in `balancer`, are the same one.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using FusionHead = Layer<Router<LinearScorer, TopK<1, RankByLogits>>, ConstantGate, DisagreementLoss<T, Exec>,
                         WithShared<GivenOutputs<T, Exec>, Ungated, PassThrough>, T, Exec, LogitAdd>;

} // namespace kokomo::inline v0::models

#endif
