// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_LLAMA4_HPP
#define KOKOMO_MODELS_LLAMA4_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Top-k of the logits (1 as published); sigmoid(z) multiplies the expert's input; an ungated shared expert sees x.
/// Source: transformers llama4.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Llama4 = Layer<Router<LinearScorer, TopK<dynamic, RankByLogits>>, OnInput<SigmoidGate>, NoBalancer,
                     WithShared<AnyGluExperts>, T, Exec>;

} // namespace kokomo::inline v0::models

#endif
