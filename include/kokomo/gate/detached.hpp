// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_GATE_DETACHED_HPP
#define KOKOMO_GATE_DETACHED_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>

namespace kokomo::inline v0 {

/// The same weights, without a gradient to the logits: a router that learns from losses alone, or not at all. The gate's
/// own parameters still get theirs.
template <class GateT> struct Detached : GateT {
  template <class T, class Exec>
  void backward(Exec const& exec, parameters_t<GateT, T, Exec> const& parameters, Routing<T, Exec> const& routing,
                Assignment<T, Exec> const& a, Vector<compute_t<T> const, Exec> const& d_weight,
                Matrix<compute_t<T>, Exec> const& d_logits, parameters_t<GateT, T, Exec> const& grads, Write write,
                backward_scratch_t<GateT, T, Exec> const& scratch) const {
    GateT::template backward<T>(exec, parameters, routing, a, d_weight, d_logits, grads, write, scratch);
    detail::fill(exec, "kokomo::Detached::backward", d_logits.data(), offset_t(d_logits.size()), 0);
  }
};

} // namespace kokomo::inline v0

#endif
