// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_DOGE_HPP
#define KOKOMO_MODELS_DOGE_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Product keys: top-k of n^2 experts of one neuron each, softmax over the chosen logits, beside an ungated GLU that
/// every token visits. The published router mixes tokens (ProductKeyScorer::tokens_interleaved). Source: transformers
/// doge.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Doge = Layer<Router<ProductKeyScorer, TopK<dynamic, RankByLogits>>, SelectedSoftmaxGate, NoBalancer,
                   WithShared<AnyPlainExperts, Ungated, AnyGluExperts>, T, Exec>;

} // namespace kokomo::inline v0::models

#endif
