// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_DEEPSEEK_V3_HPP
#define KOKOMO_MODELS_DEEPSEEK_V3_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Sigmoid scores plus a selection bias, top-k among the groups with the best sums of two, weights s / (sum + 1e-20) *
/// scale without the bias, ungated shared experts. Source: transformers deepseek_v3; the same block in dots1, glm4_moe,
/// solar_open, bailing_hybrid, kimi_linear, exaone_moe, dots3_note. axk2 and deepseek_v3 of transformers 4 rank experts
/// outside the groups 0.0 instead of -infinity (Description::outside).
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using DeepseekV3 =
    Layer<Router<LinearScorer, GroupLimitedTopK<>>, SigmoidGate, SelectionBias, WithShared<AnyGluExperts>, T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Dots1 = DeepseekV3<T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Glm4Moe = DeepseekV3<T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using SolarOpen = DeepseekV3<T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using BailingHybrid = DeepseekV3<T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using KimiLinear = DeepseekV3<T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using ExaoneMoe = DeepseekV3<T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Dots3Note = DeepseekV3<T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Axk2 = DeepseekV3<T, Exec>;

/// The same without shared experts: mimo_v2_flash, and beam, which scales the summed output instead of the weights.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using DeepseekV3WithoutShared =
    Layer<Router<LinearScorer, GroupLimitedTopK<>>, SigmoidGate, SelectionBias, AnyGluExperts, T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using MimoV2Flash = DeepseekV3WithoutShared<T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Beam = DeepseekV3WithoutShared<T, Exec>;

/// DeepseekV3 with an RMS norm of routed + shared. Source: transformers axk1.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Axk1 = Layer<Router<LinearScorer, GroupLimitedTopK<>>, SigmoidGate, SelectionBias, WithShared<AnyGluExperts>, T,
                   Exec, NormalizedSum>;

/// DeepseekV3 with clamped SwiGLU: in experts and shared expert (glm5_next), or in the experts only (hy_v4).
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Glm5Next = Layer<Router<LinearScorer, GroupLimitedTopK<>>, SigmoidGate, SelectionBias,
                       WithShared<ClampedSwiGluExperts>, T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using HyV4 = Glm5Next<T, Exec>;

} // namespace kokomo::inline v0::models

#endif
