// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_ZAYA_HPP
#define KOKOMO_MODELS_ZAYA_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// An MLP router whose state is handed from layer to layer; softmax, plus a selection bias for the choice, top-1,
/// weight s. The last expert computes nothing: its tokens skip the layer. Source: transformers zaya.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Zaya = Layer<Router<MlpScorer, TopK<>>, SoftmaxGate, SelectionBias, WithIdentity<AnyGluExperts>, T, Exec>;

} // namespace kokomo::inline v0::models

#endif
