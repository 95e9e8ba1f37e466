// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{experts that share a place \(ExpertMap\) have no activations of their own}}
#include "use.hpp"

#include <kokomo/balancer/expert_router_coupling.hpp>
#include <kokomo/placement/expert_map.hpp>

#if defined(KOKOMO_CORRECTED)
using Balancer = kokomo::NoBalancer;
#else
using Balancer = kokomo::ExpertRouterCoupling; // reads a gate projection of every expert
#endif

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate, Balancer,
                                kokomo::SwiGluExperts, float, Kokkos::DefaultExecutionSpace, kokomo::TiedExperts>>();
