// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{a selector that balances by a transport plan \(SinkhornTopK\) takes no balancing loss}}
#include "use.hpp"

#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/z_loss.hpp>
#include <kokomo/router/sinkhorn_top_k.hpp>

#if defined(KOKOMO_CORRECTED)
using Loss = kokomo::ZLoss; // keeps logits small, balances nothing
#else
using Loss = kokomo::LoadBalancingLoss;
#endif

template void
use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::SinkhornTopK>, kokomo::SigmoidGate, Loss>>();
