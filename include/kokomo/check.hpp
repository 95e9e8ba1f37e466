// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_CHECK_HPP
#define KOKOMO_CHECK_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/experts/with_shared.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {

namespace detail {

template <class Experts> struct RoutedOf { using type = Experts; };
template <class Experts>
requires requires {
  typename Experts::Routed;
}
struct RoutedOf<Experts> {
  using type = typename Experts::Routed;
};
/// The routed experts of an Experts slot, with or without shared ones beside them.
template <class Experts> using routed_t = typename RoutedOf<Experts>::type;

template <class Policy, class T, class Exec> struct NestedInputGradients { using type = Nothing; };
template <class Policy, class T, class Exec>
requires requires {
  typename Policy::template InputGradients<T, Exec>;
}
struct NestedInputGradients<Policy, T, Exec> {
  using type = typename Policy::template InputGradients<T, Exec>;
};
template <class Policy, class T, class Exec>
using input_gradients_t = typename NestedInputGradients<Policy, T, Exec>::type;

template <class P> constexpr bool is_joint_share() {
  if constexpr (requires { typename P::Share; })
    return std::is_same_v<typename P::Share, JointShare>;
  else
    return false;
}

/// One static_assert a requirement; the text names policy slot, missing member and its signature.
template <class Layer> consteval void check_composition() {
  using T = typename Layer::Storage;
  using C = typename Layer::Compute;
  using Exec = typename Layer::Exec;
  using Scorer = typename Layer::Scorer;
  using Selector = typename Layer::Selector;
  using Gate = typename Layer::Gate;
  using Routed = typename Layer::Routed;
  using Combine = typename Layer::Combine;
  using A = Assignment<T, Exec>;
  using R = Routing<T, Exec>;

  static_assert(is_storage_v<T>, "kokomo::Layer: the storage type must be float, double, kokomo::bfloat16 or "
                                 "kokomo::float16");
  static_assert(Kokkos::is_execution_space_v<Exec>, "kokomo::Layer: the parameter behind the storage type must be a "
                                                    "Kokkos execution space");
  static_assert(
      requires(Scorer const& p, Exec const& e, parameters_t<Scorer, T, Exec> const& w, Matrix<T const, Exec> const& x,
               inputs_t<Scorer, T, Exec> const& in, Matrix<C, Exec> const& z, saved_t<Scorer, T, Exec> const& saved,
               scratch_t<Scorer, T, Exec> const& scratch,
               WorkerScratch const& workers) { p.template forward<T>(e, w, x, in, z, saved, scratch, workers); },
      "kokomo::Layer, slot Scorer: the policy lacks template <class T, class Exec> void forward(Exec, Parameters, "
      "Matrix<T const, Exec> x, Inputs, Matrix<compute_t<T>, Exec> logits, Saved, Scratch, WorkerScratch) const "
      "(docs/guide/add_a_policy.md)");
  static_assert(
      requires(Selector const& p, Sizes const& s) { offset_t(p.entries_per_token(s)); },
      "kokomo::Layer, slot Selector: the policy lacks offset_t entries_per_token(Sizes const&) const, the "
      "most entries a token can have (docs/guide/add_a_policy.md)");
  static_assert(
      requires { typename Gate::Score; },
      "kokomo::Layer, slot Gate: the policy lacks using Score, the score function that selection ranks by "
      "(SoftmaxScore, SigmoidScore, ..., IdentityScore; docs/guide/add_a_policy.md)");
  if constexpr (requires { typename Gate::Score; })
    static_assert(
        requires(Selector const& p, Exec const& e, R const& r, state_t<Selector, T, Exec> const& state,
                 inputs_t<Selector, T, Exec> const& in, A const& a, scratch_t<Selector, T, Exec> const& scratch) {
          p.template select<typename Gate::Score>(e, r, state, in, a, scratch);
        },
        "kokomo::Layer, slot Selector: the policy lacks template <class GateScore, class T, class Exec> void "
        "select(Exec, Routing<T, Exec>, State, Inputs, Assignment<T, Exec>, Scratch) const "
        "(docs/guide/add_a_policy.md)");
  static_assert(
      requires(Gate const& p, Exec const& e, parameters_t<Gate, T, Exec> const& w, R const& r,
               inputs_t<Gate, T, Exec> const& in, A const& a, saved_t<Gate, T, Exec> const& saved) {
        p.template forward<T>(e, w, r, in, a);
      } || requires(Gate const& p, Exec const& e, parameters_t<Gate, T, Exec> const& w, R const& r,
                    inputs_t<Gate, T, Exec> const& in, A const& a,
                    saved_t<Gate, T, Exec> const& saved) { p.template forward<T>(e, w, r, in, a, saved); },
      "kokomo::Layer, slot Gate: the policy lacks template <class T, class Exec> void forward(Exec, Parameters, "
      "Routing<T, Exec>, Inputs, Assignment<T, Exec>) const, which writes the weights (docs/guide/add_a_policy.md)");
  static_assert(
      requires(Routed const& p, Exec const& e, parameters_t<Routed, T, Exec> const& w, ExpertRows<T, Exec> const& in,
               Matrix<C, Exec> const& out, saved_t<Routed, T, Exec> const& saved,
               scratch_t<Routed, T, Exec> const& scratch) {
        p.template forward<T>(e, w, in, out, saved, scratch);
        index_t(p.routed(index_t{}));
      },
      "kokomo::Layer, slot Experts: the policy lacks index_t routed(index_t weighted) const, or template <class T, "
      "class "
      "Exec> void forward(Exec, Parameters, ExpertRows<T, Exec>, Matrix<compute_t<T>, Exec> out, Saved, Scratch) const "
      "(docs/guide/add_a_policy.md)");
  static_assert(
      requires(Combine const& p, Exec const& e, parameters_t<Combine, T, Exec> const& w, C const* c,
               Matrix<T, Exec> const& y,
               saved_t<Combine, T, Exec> const& saved) { p.template finish<T>(e, w, c, c, y, saved); },
      "kokomo::Layer, slot combine: the policy lacks template <class T, class Exec> void finish(Exec, Parameters, C "
      "const* routed, C const* shared, Matrix<T, Exec> y, Saved) const (docs/guide/add_a_policy.md)");
  static_assert(Layer::weighs_shared == is_joint_share<typename Layer::Experts>(),
                "kokomo::Layer: a gate that weighs shared experts (JointSigmoidGate) and WithShared<..., JointShare> "
                "need each other");
}

} // namespace detail
} // namespace kokomo::inline v0

#endif
