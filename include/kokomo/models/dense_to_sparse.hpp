// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_DENSE_TO_SPARSE_HPP
#define KOKOMO_MODELS_DENSE_TO_SPARSE_HPP

#include <kokomo/adjust/top_k_shares.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/expert_choice.hpp>
#include <kokomo/transform/hidden_columns.hpp>

/// Layers whose experts are cut out of a dense network: docs/families/dense_to_sparse.md.
namespace kokomo::inline v0::models {

/// Read-ME: a router in front of the model, whose features all layers score with the same Views, experts that are columns of a
/// dense network, and the columns that all of them share as a shared expert. `router_input` are the features. Without a
/// weight (its code); the paper's text weighs two of them, Gate = NormalizedSoftmaxGate or SoftmaxGate.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Gate = ConstantGate>
using ReadMe = Layer<Router<LinearScorer, TopK<>>, Gate, NoBalancer, WithShared<SwiGluExperts>, T, Exec>;

/// Union of Experts, data selection: experts choose, of each sequence, the tokens that chose them, and the parts are added up
/// without weights.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace, class Gate = ConstantGate,
          class Experts = FeedForwardExperts<Plain<Gelu>>>
using UnionOfExpertsData = Layer<Router<LinearScorer, ExpertChoice>, Gate, NoBalancer, Experts, T, Exec, TopKShares>;

/// Its settings but for the experts': k experts a token, of which each takes half of the tokens of a sequence.
template <class P> constexpr void configure_union_of_experts_data(P& policies, int k, offset_t tokens_per_sequence) {
  policies.adjust.k = k;
  policies.adjust.tokens_per_sequence = policies.router.selector.tokens_per_sequence = tokens_per_sequence;
  policies.router.selector.places = tokens_per_sequence / 2;
}

} // namespace kokomo::inline v0::models

#endif
