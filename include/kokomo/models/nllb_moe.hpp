// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_NLLB_MOE_HPP
#define KOKOMO_MODELS_NLLB_MOE_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Top-2 with capacity over all tokens: first choices before second ones, in token order or by falling best
/// probability; weights normalised over what is left, or before dropping. Source: transformers 4.53.3 nllb_moe.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using NllbMoe = Layer<Router<LinearScorer, Top2>, SoftmaxGate, NoBalancer, AnyPlainExperts, T, Exec, Capacity>;

} // namespace kokomo::inline v0::models

#endif
