// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_HUNYUAN_MOE_HPP
#define KOKOMO_MODELS_HUNYUAN_MOE_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Mixtral's routing, and an ungated shared expert. Source: transformers hunyuan_v1_moe.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using HunyuanMoe = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, WithShared<AnyGluExperts>, T, Exec>;

} // namespace kokomo::inline v0::models

#endif
