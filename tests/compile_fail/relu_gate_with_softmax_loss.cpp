// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{a ReLU gate routes by no distribution, so its balancing loss must take masses as they are}}
#include "use.hpp"

#include <kokomo/balancer/adaptive_l1.hpp>
#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/z_loss.hpp>
#include <kokomo/router/positive.hpp>

#if defined(KOKOMO_CORRECTED)
using Loss = kokomo::AdaptiveL1;
#else
using Loss = kokomo::LoadBalancingLoss;
#endif

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::Positive>, kokomo::ReluGate,
                                kokomo::Balancers<kokomo::ZLoss, Loss>>>();
