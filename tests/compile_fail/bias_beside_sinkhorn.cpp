// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{a selector that balances the load itself \(ExpertChoice, SinkhornTopK, BalancedAssignment\) does not see a balancer's selection bias}}
#include "use.hpp"

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/balancer/z_loss.hpp>
#include <kokomo/router/self_healing.hpp>
#include <kokomo/router/sinkhorn_top_k.hpp>

// Also where both are wrapped.
#if defined(KOKOMO_CORRECTED)
using Balancer = kokomo::Balancers<kokomo::ZLoss>;
#else
using Balancer = kokomo::Balancers<kokomo::ZLoss, kokomo::SelectionBias>;
#endif
using Selector = kokomo::SelfHealing<kokomo::SinkhornTopK>;

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, Selector>, kokomo::SigmoidGate, Balancer>>();
