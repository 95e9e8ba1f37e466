// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_LOAD_BALANCING_LOSS_HPP
#define KOKOMO_BALANCER_LOAD_BALANCING_LOSS_HPP

#include <kokomo/balancer/switch_loss.hpp>

namespace kokomo::inline v0 {

/// The load balancing loss of the softmax of the logits, whatever score the gate uses:
///
///     loss = coefficient * E * mean over sequences of sum_e f_e P_e,   f_e = picks of e / tokens,   P_e = mean of p_e
///
/// Picks are the `top_k` largest logits, without biases or groups, before any capacity; f is constant for the gradient.
/// At perfect balance sum_e f_e P_e = k / E, so the loss is coefficient * k, or coefficient with `.divide_by_k`. It is
/// SwitchLoss with its defaults; kokomo/balancer/published_losses.hpp has the settings of published ones.
using LoadBalancingLoss = SwitchLoss<>;

} // namespace kokomo::inline v0

#endif
