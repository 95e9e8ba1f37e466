// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_NO_BALANCER_HPP
#define KOKOMO_BALANCER_NO_BALANCER_HPP

namespace kokomo::inline v0 {

/// Nothing keeps the load even.
///
/// A balancer has any of these members, all enqueued on `exec`:
///
///     Vector<C const, Exec> bias(State const&) const;                          // added to what selection ranks
///     void observe(exec, Routing, Assignment, State, Saved, Vector<C, Exec> loss) const; // adds its loss to loss[0]
///     void backward(exec, Routing, Assignment, Saved, Matrix<C, Exec> d_logits) const;   // adds its gradient
///     void step(exec, State) const;                                            // once an optimiser step
struct NoBalancer {};

} // namespace kokomo::inline v0

#endif
