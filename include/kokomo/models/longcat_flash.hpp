// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_LONGCAT_FLASH_HPP
#define KOKOMO_MODELS_LONGCAT_FLASH_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Softmax over experts with and without weights, plus a selection bias; the latter return their input. Weights
/// scale * s, not normalised. The published `router_bias` parameter is never added. Source: transformers longcat_flash.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using LongcatFlash =
    Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, SelectionBias, WithIdentity<AnyGluExperts>, T, Exec>;

} // namespace kokomo::inline v0::models

#endif
