// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_QWEN2_MOE_HPP
#define KOKOMO_MODELS_QWEN2_MOE_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Mixtral's routing, and a shared expert times sigmoid(g . x). Weights s, or s / sum with `norm_topk_prob`.
/// Source: transformers qwen2_moe; the same block in qwen3_next.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Qwen2Moe =
    Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, WithShared<AnyGluExperts, SigmoidShare>, T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Qwen3Next = Qwen2Moe<T, Exec>;

/// qwen3_5_moe: weights s / sum, always.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Qwen35Moe = Qwen2Moe<T, Exec>;

} // namespace kokomo::inline v0::models

#endif
