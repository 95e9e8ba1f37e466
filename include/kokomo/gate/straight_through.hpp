// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_GATE_STRAIGHT_THROUGH_HPP
#define KOKOMO_GATE_STRAIGHT_THROUGH_HPP

#include <kokomo/check.hpp>
#include <kokomo/gate/constant.hpp>

namespace kokomo::inline v0 {

/// Forward, every chosen expert has the same weight; backward, the gradient is that of the soft gate inside, as if its
/// weights had been used: the straight-through estimator, which is biased. Gates that read no input of the call.
template <class GateT> struct StraightThrough {
  using Score = typename GateT::Score;
  using Logits = typename detail::LogitsOf<GateT>::type;
  static_assert(
      !requires { GateT::weighs_shared; },
      "kokomo::StraightThrough: a gate that weighs shared experts (JointSigmoidGate) has no hard form");

  GateT inner{};
  float value = 1; ///< weight of a chosen expert

  template <class T, class Exec> using Parameters = detail::OfInner<parameters_t<GateT, T, Exec>>;

  template <class T, class Exec> struct BackwardScratch {
    backward_scratch_t<GateT, T, Exec> inner;
    Vector<compute_t<T>, Exec> soft; ///< [entries] the gate's own weights

    BackwardScratch(detail::Arena& arena, StraightThrough const& policy, Sizes const& sizes)
        : inner(detail::make<backward_scratch_t<GateT, T, Exec>>(arena, policy.inner, sizes)),
          soft(arena.vector<compute_t<T>, Exec>(sizes.entries)) {}
  };

  void check(Sizes const& sizes) const { detail::check_settings(inner, sizes); }

  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const&, Routing<T, Exec> const&, Nothing const&,
               Assignment<T, Exec> const& a) const {
    detail::for_each(exec, "kokomo::StraightThrough::forward", a.tokens,
                     detail::ConstantWeigh<T, Exec>{a, compute_t<T>(value)});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Routing<T, Exec> const& routing,
                Assignment<T, Exec> const& a, Vector<compute_t<T> const, Exec> const& d_weight,
                Matrix<compute_t<T>, Exec> const& d_logits, Parameters<T, Exec> const& grads, Write write,
                BackwardScratch<T, Exec> const& scratch) const {
    auto soft = a; // the tape keeps the hard weights
    soft.weight = scratch.soft;
    inner.template forward<T>(exec, parameters, routing, inputs_t<GateT, T, Exec>{}, soft);
    inner.template backward<T>(exec, parameters, routing, soft, d_weight, d_logits, grads, write, scratch.inner);
  }
};

} // namespace kokomo::inline v0

#endif
