// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_PHIMOE_HPP
#define KOKOMO_MODELS_PHIMOE_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// SparseMixer's two picks and their weights. Source: transformers phimoe.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using PhiMoe = Layer<Router<LinearScorer, SparseMixer>, SparseMixerGate, NoBalancer, AnyGluExperts, T, Exec>;

/// The same with samples drawn elsewhere: SparseMixer's training form, replayed.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using PhiMoeReplay = Layer<Router<LinearScorer, Given>, SparseMixerGate, NoBalancer, AnyGluExperts, T, Exec>;

} // namespace kokomo::inline v0::models

#endif
