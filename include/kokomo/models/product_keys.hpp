// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_PRODUCT_KEYS_HPP
#define KOKOMO_MODELS_PRODUCT_KEYS_HPP

#include <kokomo/adjust/key_batch_norm.hpp>
#include <kokomo/experts/single_neuron.hpp>
#include <kokomo/experts/with_shared.hpp>
#include <kokomo/gate/pair_gate.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/batch_norm_key_scorer.hpp>
#include <kokomo/router/grid_scorer.hpp>
#include <kokomo/router/key_scorer.hpp>
#include <kokomo/router/pair_top_k.hpp>

namespace kokomo::inline v0::models {

/// PEER: multi-head product key retrieval over experts of one neuron. `heads` goes to scorer, selector and gate.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Peer = Layer<Router<KeyScorer, PairTopK>, PairGate, NoBalancer, SingleNeuronExperts<AnyActivation>, T, Exec>;

/// The same with a batch norm of the queries, an option of product-key memories. Weights of the norm and running variances
/// begin with ones.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using PeerNormalized =
    Layer<Router<BatchNormKeyScorer, PairTopK>, PairGate, NoBalancer, SingleNeuronExperts<AnyActivation>, T, Exec>;

/// OmniMoE: a Cartesian grid of atomic experts beside a SwiGLU that every token visits. The gate is the softmax over the
/// chosen (the paper's equation) by default, or PairWeight::joint_probability (its code).
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using OmniMoe = Layer<Router<GridScorer, PairTopK>, PairGate, NoBalancer,
                      WithShared<SingleNeuronExperts<Silu>, Ungated, SwiGluExperts>, T, Exec>;

/// OmniMoE as its code has it: the logits of rows and columns pass a batch norm before their log-softmax. Its adjustment does
/// both, so the scorer does neither: configure_omni_moe_normalized. Running variances begin with ones.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using OmniMoeNormalized = Layer<Router<GridScorer, PairTopK>, PairGate, NoBalancer,
                                WithShared<SingleNeuronExperts<Silu>, Ungated, SwiGluExperts>, T, Exec, KeyBatchNorm>;

/// Its settings but for the experts': a grid of `rows` rows (0: a square), k experts, weights of the joint probability.
template <class P> constexpr void configure_omni_moe_normalized(P& policies, index_t rows, int k) {
  policies.router.scorer.rows = policies.router.selector.rows = policies.gate.rows = policies.adjust.rows = rows;
  policies.router.scorer.log_softmax = false;
  policies.router.selector.k = k;
  policies.gate.weight = PairWeight::joint_probability;
}

} // namespace kokomo::inline v0::models

#endif
