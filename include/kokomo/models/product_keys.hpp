// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_PRODUCT_KEYS_HPP
#define KOKOMO_MODELS_PRODUCT_KEYS_HPP

#include <kokomo/experts/single_neuron.hpp>
#include <kokomo/experts/with_shared.hpp>
#include <kokomo/gate/pair_gate.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/grid_scorer.hpp>
#include <kokomo/router/key_scorer.hpp>
#include <kokomo/router/pair_top_k.hpp>

namespace kokomo::inline v0::models {

/// PEER: multi-head product key retrieval over experts of one neuron. `heads` goes to scorer, selector and gate.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Peer = Layer<Router<KeyScorer, PairTopK>, PairGate, NoBalancer, SingleNeuronExperts<AnyActivation>, T, Exec>;

/// OmniMoE: a Cartesian grid of atomic experts beside a SwiGLU that every token visits. The gate is the softmax over the
/// chosen (the paper's equation) by default, or PairWeight::joint_probability (its code).
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using OmniMoe = Layer<Router<GridScorer, PairTopK>, PairGate, NoBalancer,
                      WithShared<SingleNeuronExperts<Silu>, Ungated, SwiGluExperts>, T, Exec>;

} // namespace kokomo::inline v0::models

#endif
