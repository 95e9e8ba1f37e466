// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_SIGMOID_TOP_K_HPP
#define KOKOMO_MODELS_SIGMOID_TOP_K_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Sigmoid scores plus a selection bias, top-k without groups, ungated shared experts. afmoe, hy_v3: weights s / (sum +
/// 1e-20) * scale; laguna: s / sum, logits soft-capped if the configuration says so, the summed output scaled.
/// Source: transformers afmoe, hy_v3, laguna.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Afmoe = Layer<Router<LinearScorer, TopK<>>, SigmoidGate, SelectionBias, WithShared<AnyGluExperts>, T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using HyV3 = Afmoe<T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Laguna = Afmoe<T, Exec>;

/// The same without shared experts. minimax_m2: s / sum; dots3_note vision: s / (sum + 1e-20) * scale; lfm2_moe: s /
/// (sum
/// + 1e-6) if normalised, times scale. Source: transformers minimax_m2, dots3_note, lfm2_moe.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using MiniMaxM2 = Layer<Router<LinearScorer, TopK<>>, SigmoidGate, SelectionBias, AnyGluExperts, T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Dots3NoteVision = MiniMaxM2<T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Lfm2Moe = MiniMaxM2<T, Exec>;

/// lfm2_moe with `use_expert_bias` false.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Lfm2MoeWithoutBias = Layer<Router<LinearScorer, TopK<>>, SigmoidGate, NoBalancer, AnyGluExperts, T, Exec>;

/// No selection bias, s / sum if normalised. Source: transformers flint.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Flint = Layer<Router<LinearScorer, TopK<>>, SigmoidGate, NoBalancer, WithShared<AnyGluExperts>, T, Exec>;

/// The selection bias is added to the logits, before the sigmoid. Source: transformers kolibri1.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Kolibri1 = Layer<Router<LinearScorer, TopK<dynamic, RankByLogits>>, SigmoidGate, SelectionBias,
                       WithShared<AnyGluExperts>, T, Exec>;

/// Clamped SwiGLU in experts and shared expert, the summed output scaled. minimax_m3_vl: before the activation,
/// alpha 1.702, up + 1; step3p7: after the activation, with limits of their own for experts and shared. Source:
/// transformers.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using MiniMaxM3 =
    Layer<Router<LinearScorer, TopK<>>, SigmoidGate, SelectionBias, WithShared<ClampedSwiGluExperts>, T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Step37 = MiniMaxM3<T, Exec>;

/// Softly capped SwiGLU. Source: transformers inkling2.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Inkling2 = Layer<Router<LinearScorer, TopK<>>, SigmoidGate, SelectionBias, SoftcappedSwiGluExperts, T, Exec>;

/// Experts in a latent space behind an RMS norm, each output row normalised before its weight; logits times a constant.
/// Source: transformers muse_spark.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using MuseSpark =
    Layer<Router<LinearScorer, TopK<>>, SigmoidGate, SelectionBias, RowNorm<AnyGluExperts>, T, Exec, Latent>;

/// The router scores routed and shared experts; the chosen and all shared ones share one normalised budget.
/// Source: transformers inkling.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Inkling = Layer<Router<LinearScorer, TopK<>>, JointSigmoidGate, SelectionBias,
                      WithShared<AnyGluExperts, JointShare>, T, Exec>;

} // namespace kokomo::inline v0::models

#endif
