// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_SWITCH_TRANSFORMERS_HPP
#define KOKOMO_MODELS_SWITCH_TRANSFORMERS_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Top-1 of the softmax, weight p, an expert takes the first tokens of each sequence up to its capacity; a dropped
/// token gives zero. Source: transformers switch_transformers.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using SwitchTransformers =
    Layer<Router<LinearScorer, TopK<1>>, SoftmaxGate, NoBalancer, AnyPlainExperts, T, Exec, Capacity>;

} // namespace kokomo::inline v0::models

#endif
