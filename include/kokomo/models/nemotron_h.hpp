// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_NEMOTRON_H_HPP
#define KOKOMO_MODELS_NEMOTRON_H_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// DeepseekV3's routing over plain experts down(relu(up x)^2), a plain shared expert of its own size.
/// Source: transformers nemotron_h.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using NemotronH =
    Layer<Router<LinearScorer, GroupLimitedTopK<>>, SigmoidGate, SelectionBias, WithShared<AnyPlainExperts>, T, Exec>;

/// The same with experts in a latent space; router and shared expert see x.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using NemotronHLatent = Layer<Router<LinearScorer, GroupLimitedTopK<>>, SigmoidGate, SelectionBias,
                              WithShared<AnyPlainExperts>, T, Exec, Latent>;

} // namespace kokomo::inline v0::models

#endif
