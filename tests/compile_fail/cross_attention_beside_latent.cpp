// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::Layer: a combine that makes one row of a token's rows itself \(PrimaryCrossAttention\) needs rows of the layer's width and of the chosen experts}}
#include "use.hpp"

#include <kokomo/combine/primary_cross_attention.hpp>
#include <kokomo/space/latent.hpp>

#if defined(KOKOMO_CORRECTED)
using Space = kokomo::SameSpace;
#else
using Space = kokomo::Latent; // the experts' rows have another width than y
#endif

template void
use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate, kokomo::NoBalancer,
                  kokomo::SwiGluExperts, float, Kokkos::DefaultExecutionSpace, Space, kokomo::PrimaryCrossAttention>>();
