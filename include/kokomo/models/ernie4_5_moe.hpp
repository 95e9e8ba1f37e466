// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_ERNIE4_5_MOE_HPP
#define KOKOMO_MODELS_ERNIE4_5_MOE_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Softmax scores plus a selection bias, top-k, weights s / max(sum, 1e-12), a wide shared expert.
/// Source: transformers ernie4_5_moe.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Ernie45Moe = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, SelectionBias, WithShared<AnyGluExperts>, T, Exec>;

/// The same for configurations without shared experts, and the text and vision experts of ernie4_5_vl_moe.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Ernie45MoeWithoutShared = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, SelectionBias, AnyGluExperts, T, Exec>;

} // namespace kokomo::inline v0::models

#endif
