// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_MIXTRAL_HPP
#define KOKOMO_MODELS_MIXTRAL_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Softmax over all experts, top-k, weights normalised over the chosen or not.
/// Source: transformers mixtral; the same block in minimax, qwen3_moe, olmoe, flex_olmo, qwen3_vl_moe, jamba, dbrx.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Mixtral = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, AnyGluExperts, T, Exec>;

/// Weights s / sum.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using MiniMax = Mixtral<T, Exec>;

/// Weights s, or s / sum with `norm_topk_prob`.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Qwen3Moe = Mixtral<T, Exec>;

/// As Qwen3Moe.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Olmoe = Mixtral<T, Exec>;

/// As Qwen3Moe.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using FlexOlmo = Mixtral<T, Exec>;

/// Weights s / sum, always.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Qwen3VlMoe = Mixtral<T, Exec>;

/// Weights s, never normalised.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Jamba = Mixtral<T, Exec>;

/// Weights s / p-norm of the chosen (`moe_normalize_expert_weights`); separate gate and up matrices, down stored
/// in_out.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Dbrx = Mixtral<T, Exec>;

} // namespace kokomo::inline v0::models

#endif
