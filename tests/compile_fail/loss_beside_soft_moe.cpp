// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::SoftMoe: nothing is chosen, so nothing can overflow or be out of balance}}
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/soft_moe.hpp>

#if defined(KOKOMO_CORRECTED)
using Layer = kokomo::SoftMoe<kokomo::AnyPlainExperts, float, Kokkos::DefaultExecutionSpace>;
#else
using Layer = kokomo::SoftMoe<kokomo::AnyPlainExperts, float, Kokkos::DefaultExecutionSpace, kokomo::LoadBalancingLoss>;
#endif

bool const causal = Layer::causal;
