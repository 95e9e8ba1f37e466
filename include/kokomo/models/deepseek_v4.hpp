// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_DEEPSEEK_V4_HPP
#define KOKOMO_MODELS_DEEPSEEK_V4_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// sqrt(softplus(z)) scores plus a selection bias, top-k, weights s / (sum + 1e-20) * scale, clamped SwiGLU.
/// Source: transformers deepseek_v4.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using DeepseekV4 = Layer<Router<LinearScorer, TopK<>>, NormalizedSqrtSoftplusGate, SelectionBias,
                         WithShared<ClampedSwiGluExperts>, T, Exec>;

/// Its first layers: experts from a table of token ids (`tid2eid`), the same weights.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using DeepseekV4Hash = Layer<Router<LinearScorer, HashTable>, NormalizedSqrtSoftplusGate, NoBalancer,
                             WithShared<ClampedSwiGluExperts>, T, Exec>;

} // namespace kokomo::inline v0::models

#endif
