// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_MIXTURE_OF_THOUGHTS_HPP
#define KOKOMO_MODELS_MIXTURE_OF_THOUGHTS_HPP

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/entropy_loss.hpp>
#include <kokomo/balancer/switch_loss.hpp>
#include <kokomo/combine/primary_cross_attention.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/hidden_layer_scorer.hpp>
#include <kokomo/router/pooled_scorer.hpp>

namespace kokomo::inline v0::models {

/// Mixture of Thoughts, one of its synchronisations: a sequence's mean chooses k experts by a perceptron, and the best of
/// them attends over what all of them say. Two losses act on the router, which the output does not reach: an entropy and
/// a balance. Reconstructed where the paper's text was not found.
/// Source: notes on the paper (arXiv 2509.21164). docs/families/mixture_of_thoughts.md
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Experts = SwiGluExperts>
using MixtureOfThoughts = Layer<Router<PooledScorer<HiddenLayerScorer<GeluTanh>>, TopK<>>, SoftmaxGate,
                                Balancers<EntropyLoss, SwitchLoss<Chosen>>, Experts, T, Exec, PrimaryCrossAttention>;

} // namespace kokomo::inline v0::models

#endif
