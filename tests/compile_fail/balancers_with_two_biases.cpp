// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::Balancers: at most one of the balancers may have a selection bias}}
#include "use.hpp"

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/balancer/z_loss.hpp>

#if defined(KOKOMO_CORRECTED)
using Second = kokomo::ZLoss;
#else
using Second = kokomo::SelectionBias;
#endif

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate,
                                kokomo::Balancers<kokomo::SelectionBias, Second>>>();
