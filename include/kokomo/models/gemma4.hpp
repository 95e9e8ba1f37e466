// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_GEMMA4_HPP
#define KOKOMO_MODELS_GEMMA4_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// The router sees a scaled RMS norm of x, the experts (GeGLU, tanh form) another; weights (s / sum) times a learned
/// scale an expert. Source: transformers gemma4, its experts' branch with `pre_feedforward_layernorm_2`.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Gemma4 =
    Layer<Router<NormalizedScorer, TopK<>>, SoftmaxGate, NoBalancer, AnyGluExperts, T, Exec, NormalizedInput>;

} // namespace kokomo::inline v0::models

#endif
