// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{a selector that balances the load itself \(ExpertChoice, SinkhornTopK, BalancedAssignment\) does not see a balancer's selection bias}}
#include "use.hpp"

#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/router/expert_choice.hpp>

#if defined(KOKOMO_CORRECTED)
using Balancer = kokomo::NoBalancer;
#else
using Balancer = kokomo::SelectionBias;
#endif

template void
use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::ExpertChoice>, kokomo::SoftmaxGate, Balancer>>();
