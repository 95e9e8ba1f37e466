// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_CHECK_HPP
#define KOKOMO_CHECK_HPP

#include <kokomo/balancer/no_balancer.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/row_reduction.hpp>
#include <kokomo/expert_rows.hpp>
#include <kokomo/experts/with_shared.hpp>
#include <kokomo/score.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {

template <class... Parts> struct Balancers;

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

/// The score function of a gate; of one that lacks it, which is reported once, any.
template <class Gate> struct ScoreOf { using type = IdentityScore; };
template <class Gate>
requires requires {
  typename Gate::Score;
}
struct ScoreOf<Gate> {
  using type = typename Gate::Score;
};
template <class Gate> using score_of_t = typename ScoreOf<Gate>::type;

/// A selector whose loads do not depend on what is added to all ranks of an expert.
template <class Selector> constexpr bool balances_itself() {
  if constexpr (requires { Selector::balances_itself; })
    return Selector::balances_itself;
  else
    return false;
}
/// A selector of a plan that is balanced as it is, so that a loss would only pull the logits away from it.
template <class Selector> constexpr bool takes_no_loss() {
  if constexpr (requires { Selector::takes_no_loss; })
    return Selector::takes_no_loss;
  else
    return false;
}
/// Whether a balancer is, or holds, a loss of probabilities, and whether of a distribution.
template <class Balancer> struct BalancingLoss { static constexpr bool any = false, of_distribution = false; };
template <class Balancer>
requires requires {
  typename Balancer::Distribution;
}
struct BalancingLoss<Balancer> {
  static constexpr bool any = true, of_distribution = Balancer::Distribution::distribution;
};
template <class... Parts> struct BalancingLoss<Balancers<Parts...>> {
  static constexpr bool any = (BalancingLoss<Parts>::any || ...);
  static constexpr bool of_distribution = (BalancingLoss<Parts>::of_distribution || ...);
};

/// Experts that compute token by token, straight from the entries: very many small ones.
template <class Experts, class T, class Exec>
concept ComputesByToken = requires(Experts const& p, Exec const& exec, parameters_t<Experts, T, Exec> const& parameters,
                                   T const* x, Assignment<T, Exec> const& a, compute_t<T>* out, offset_t width,
                                   saved_t<Experts, T, Exec> const& saved, scratch_t<Experts, T, Exec> const& scratch) {
  p.template forward_by_token<T>(exec, parameters, x, a, out, width, saved, scratch);
};
template <class Experts, class T, class Exec>
concept ByTokenGradient = requires(Experts const& p, Exec const& exec, parameters_t<Experts, T, Exec> const& parameters,
                                   T const* x, Assignment<T, Exec> const& a, compute_t<T>* c, offset_t width,
                                   saved_t<Experts, T, Exec> const& saved,
                                   backward_scratch_t<Experts, T, Exec> const& scratch) {
  p.template backward_by_token<T>(exec, parameters, x, a, c, width, c, c, parameters, Write::add, saved, scratch);
};

/// Scorers whose activations the experts may read, and add to the gradient of.
template <class Scorer, class T, class Exec>
concept SharesActivations = requires(saved_t<Scorer, T, Exec> const& saved,
                                     backward_scratch_t<Scorer, T, Exec> const& scratch) {
  saved.activations;
  scratch.d_activations;
};
template <class Experts>
concept ReadsActivations = requires {
  Experts::reads_activations;
};

/// What a policy takes the columns of the logits for.
template <class P> struct LogitsOf { using type = logits::experts; };
template <class P>
requires requires {
  typename P::Logits;
}
struct LogitsOf<P> {
  using type = typename P::Logits;
};
template <class P, class Scorer>
inline constexpr bool reads_logits_of = std::is_same_v<typename LogitsOf<P>::type, typename LogitsOf<Scorer>::type>;

template <class P>
concept HasScore = requires {
  typename P::Score;
};
template <class P>
concept BoundsEntries = requires(P const& p, Sizes const& sizes) {
  offset_t(p.entries_per_token(sizes));
};
template <class P>
concept CountsExperts = requires(P const& p) {
  index_t(p.routed(index_t{}));
};

} // namespace detail

/// What each slot demands of its policy, for a static_assert where the policy is written:
///
///     static_assert(kokomo::GatePolicy<MyGate>);
///
/// A Layer itself is not constrained by them: it says what is missing in a sentence. What backward calls is demanded when
/// a layer's backward is used, so that policies may infer only.
template <class P, class T = float, class Exec = Kokkos::DefaultExecutionSpace>
concept ScorerPolicy = requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w,
                                Matrix<T const, Exec> const& x, inputs_t<P, T, Exec> const& in,
                                Matrix<compute_t<T>, Exec> const& logits, saved_t<P, T, Exec> const& saved,
                                scratch_t<P, T, Exec> const& scratch, detail::WorkerScratch const& workers) {
  p.template forward<T>(e, w, x, in, logits, saved, scratch, workers);
}
|| requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w, state_t<P, T, Exec> const& state,
            Vector<index_t const, Exec> const& token_mask, Matrix<T const, Exec> const& x,
            inputs_t<P, T, Exec> const& in, Matrix<compute_t<T>, Exec> const& logits, saved_t<P, T, Exec> const& saved,
            scratch_t<P, T, Exec> const& scratch, detail::WorkerScratch const& workers) {
  p.template forward<T>(e, w, state, token_mask, x, in, logits, saved, scratch, workers);
};

template <class P, class GateScore = IdentityScore, class T = float, class Exec = Kokkos::DefaultExecutionSpace>
concept SelectorPolicy = detail::BoundsEntries<P> &&
    requires(P const& p, Exec const& e, Routing<T, Exec> const& routing, state_t<P, T, Exec> const& state,
             inputs_t<P, T, Exec> const& in, Assignment<T, Exec> const& a, scratch_t<P, T, Exec> const& scratch) {
  p.template select<GateScore>(e, routing, state, in, a, scratch);
};

/// The second form is that of gates that weigh shared experts as well.
template <class P, class T = float, class Exec = Kokkos::DefaultExecutionSpace>
concept GatePolicy = detail::HasScore<P> &&(
    requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w, Routing<T, Exec> const& routing,
             inputs_t<P, T, Exec> const& in,
             Assignment<T, Exec> const& a) { p.template forward<T>(e, w, routing, in, a); } ||
    requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w, Routing<T, Exec> const& routing,
             inputs_t<P, T, Exec> const& in, Assignment<T, Exec> const& a,
             saved_t<P, T, Exec> const& saved) { p.template forward<T>(e, w, routing, in, a, saved); });

template <class P, class T = float, class Exec = Kokkos::DefaultExecutionSpace>
concept ExpertsPolicy = detail::CountsExperts<P> &&
    requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w, ExpertRows<T, Exec> const& in,
             Matrix<compute_t<T>, Exec> const& out, saved_t<P, T, Exec> const& saved,
             scratch_t<P, T, Exec> const& scratch) {
  p.template forward<T>(e, w, in, out, saved, scratch);
};

template <class P, class T = float, class Exec = Kokkos::DefaultExecutionSpace>
concept CombinePolicy = requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w, compute_t<T> const* part,
                                 Matrix<T, Exec> const& y, saved_t<P, T, Exec> const& saved) {
  p.template finish<T>(e, w, part, part, y, saved);
};

template <class P, class T = float, class Exec = Kokkos::DefaultExecutionSpace>
concept AdjustPolicy = requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w,
                                Routing<T, Exec> const& routing, state_t<P, T, Exec> const& state,
                                inputs_t<P, T, Exec> const& in, Matrix<compute_t<T>, Exec> const& logits,
                                saved_t<P, T, Exec> const& saved) {
  p.template adjust<T>(e, w, routing, state, in, logits, saved);
};

namespace detail {

template <class P, class T, class Exec>
concept ScorerGradient = requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w,
                                  Matrix<T const, Exec> const& x, inputs_t<P, T, Exec> const& in,
                                  Matrix<compute_t<T>, Exec> const& m, input_gradients_t<P, T, Exec> const& d_in,
                                  saved_t<P, T, Exec> const& saved, backward_scratch_t<P, T, Exec> const& scratch,
                                  WorkerScratch const& workers) {
  p.template backward<T>(e, w, x, in, m, m, m, d_in, w, Write::add, saved, scratch, workers);
}
|| requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w, state_t<P, T, Exec> const& state,
            Vector<index_t const, Exec> const& token_mask, Matrix<T const, Exec> const& x,
            inputs_t<P, T, Exec> const& in, Matrix<compute_t<T>, Exec> const& m,
            input_gradients_t<P, T, Exec> const& d_in, saved_t<P, T, Exec> const& saved,
            backward_scratch_t<P, T, Exec> const& scratch, WorkerScratch const& workers) {
  p.template backward<T>(e, w, state, token_mask, x, in, m, m, m, d_in, w, Write::add, saved, scratch, workers);
};
template <class P, class T, class Exec>
concept GateGradient = requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w,
                                Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                                Vector<compute_t<T>, Exec> const& d_weight, Matrix<compute_t<T>, Exec> const& m,
                                backward_scratch_t<P, T, Exec> const& scratch) {
  p.template backward<T>(e, w, routing, a, d_weight, m, w, Write::add, scratch);
}
|| requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w, Routing<T, Exec> const& routing,
            Assignment<T, Exec> const& a, Vector<compute_t<T>, Exec> const& d_weight,
            Matrix<compute_t<T>, Exec> const& m, backward_scratch_t<P, T, Exec> const& scratch) {
  p.template backward<T>(e, w, routing, a, d_weight, m, m, w, Write::add, scratch);
};
template <class P, class T, class Exec>
concept ExpertsGradient = requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w,
                                   ExpertRows<T, Exec> const& in, ExpertRowGradients<T, Exec> const& d,
                                   saved_t<P, T, Exec> const& saved, backward_scratch_t<P, T, Exec> const& scratch) {
  p.template backward<T>(e, w, in, d, w, Write::add, saved, scratch);
};
template <class P, class T, class Exec>
concept CombineGradient = requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w,
                                   Matrix<T const, Exec> const& dy, compute_t<T>* d_part,
                                   saved_t<P, T, Exec> const& saved, backward_scratch_t<P, T, Exec> const& scratch) {
  p.template finish_backward<T>(e, w, dy, d_part, d_part, w, Write::add, saved, scratch);
};

/// It is optional, so one with other arguments would not be missed.
template <class P, class T, class Exec>
concept NamesAdjustBackward = requires {
  &P::template adjust_backward<T, Exec>;
};

/// One sentence a requirement: the slot, the missing member and its signature. What depends on a requirement that is not
/// met is not asked.
template <class Layer> consteval void check_composition() {
  using T = typename Layer::Storage;
  using Exec = typename Layer::Exec;
  using Selector = typename Layer::Selector;
  using Gate = typename Layer::Gate;
  using Routed = typename Layer::Routed;

  static_assert(is_storage_v<T>, "kokomo::Layer: the storage type must be float, double, kokomo::bfloat16 or "
                                 "kokomo::float16");
  static_assert(Kokkos::is_execution_space_v<Exec>, "kokomo::Layer: the parameter behind the storage type must be a "
                                                    "Kokkos execution space");
  static_assert(bool(ScorerPolicy<typename Layer::Scorer, T, Exec>),
                "kokomo::Layer, slot Scorer: the policy lacks template <class T, class Exec> void forward(Exec, "
                "Parameters, Matrix<T const, Exec> x, Inputs, Matrix<compute_t<T>, Exec> logits, Saved, Scratch, "
                "WorkerScratch) const (docs/guide/add_a_policy.md)");
  static_assert(bool(BoundsEntries<Selector>),
                "kokomo::Layer, slot Selector: the policy lacks offset_t entries_per_token(Sizes const&) const, the "
                "most entries a token can have (docs/guide/add_a_policy.md)");
  static_assert(bool(SelectorPolicy<Selector, score_of_t<Gate>, T, Exec> || !BoundsEntries<Selector>),
                "kokomo::Layer, slot Selector: the policy lacks template <class GateScore, class T, class Exec> void "
                "select(Exec, Routing<T, Exec>, State, Inputs, Assignment<T, Exec>, Scratch) const "
                "(docs/guide/add_a_policy.md)");
  static_assert(bool(AdjustPolicy<typename Layer::Adjust, T, Exec> || !Layer::has_adjust),
                "kokomo::Layer, slot adjust: the policy lacks template <class T, class Exec> void adjust(Exec, "
                "Parameters, Routing<T, Exec>, State, Inputs, Matrix<compute_t<T>, Exec> logits, Saved) const, which "
                "changes the logits in place (docs/guide/add_a_policy.md)");
  static_assert(bool(HasScore<Gate>),
                "kokomo::Layer, slot Gate: the policy lacks using Score, the score function that selection ranks by "
                "(SoftmaxScore, SigmoidScore, ..., IdentityScore; docs/guide/add_a_policy.md)");
  static_assert(bool(GatePolicy<Gate, T, Exec> || !HasScore<Gate>),
                "kokomo::Layer, slot Gate: the policy lacks template <class T, class Exec> void forward(Exec, "
                "Parameters, Routing<T, Exec>, Inputs, Assignment<T, Exec>) const, which writes the weights "
                "(docs/guide/add_a_policy.md)");
  static_assert(bool(CountsExperts<Routed>),
                "kokomo::Layer, slot Experts: the policy lacks index_t routed(index_t weighted) const, how many "
                "experts can be chosen if `weighted` of them have parameters (docs/guide/add_a_policy.md)");
  static_assert(bool(ExpertsPolicy<Routed, T, Exec> || ComputesByToken<Routed, T, Exec> || !CountsExperts<Routed>),
                "kokomo::Layer, slot Experts: the policy lacks template <class T, class Exec> void forward(Exec, "
                "Parameters, ExpertRows<T, Exec>, Matrix<compute_t<T>, Exec> out, Saved, Scratch) const "
                "(docs/guide/add_a_policy.md)");
  static_assert(bool(CombinePolicy<typename Layer::Combine, T, Exec>),
                "kokomo::Layer, slot combine: the policy lacks template <class T, class Exec> void finish(Exec, "
                "Parameters, compute_t<T> const* routed, compute_t<T> const* shared, Matrix<T, Exec> y, Saved) const "
                "(docs/guide/add_a_policy.md)");
  static_assert(bool(ReducePolicy<typename Layer::Combine, T, Exec> || !Layer::reduces_rows),
                "kokomo::Layer, slot combine: the policy saves `rows` and lacks template <class T, class Exec> void "
                "reduce(Exec, Parameters, Assignment<T, Exec>, Matrix<compute_t<T>, Exec> routed, Saved, Scratch, "
                "WorkerScratch) const (docs/guide/add_a_policy.md)");
  static_assert(!Layer::reduces_rows || (!Layer::by_token && !Layer::weighs_input && !Layer::has_placement &&
                                         !bool(MapsBack<typename Layer::Space, T, Exec>)),
                "kokomo::Layer: a combine that makes one row of a token's rows itself (PrimaryCrossAttention) needs "
                "rows of the layer's width and of the chosen experts, without weights: no SingleNeuronExperts, "
                "OnInput, Latent or ExpertMap");
  static_assert(!Layer::has_placement || !HasParts<Routed>::value,
                "kokomo::Layer: experts of several kinds (MixedExperts) cannot share places (ExpertMap)");
  static_assert(!Layer::has_complement || !Layer::has_shared,
                "kokomo::Layer: what a scorer adds to the experts (Complemented) takes the place of shared experts, so "
                "there cannot be both");
  static_assert(Layer::weighs_shared == is_joint_share<typename Layer::Experts>(),
                "kokomo::Layer: a gate that weighs shared experts (JointSigmoidGate) and WithShared<..., JointShare> "
                "need each other");
  static_assert(!balances_itself<Selector>() || !bool(BiasesSelection<typename Layer::Balancer, T, Exec>),
                "kokomo::Layer: a selector that balances the load itself (ExpertChoice, SinkhornTopK, "
                "BalancedAssignment) does not see a balancer's selection bias (docs/policies/balancer)");
  static_assert(!takes_no_loss<Selector>() || !BalancingLoss<typename Layer::Balancer>::any,
                "kokomo::Layer: a selector that balances by a transport plan (SinkhornTopK) takes no balancing loss "
                "(docs/policies/router/sinkhorn_top_k.md)");
  static_assert(!std::is_same_v<score_of_t<Gate>, ReluScore> ||
                    !BalancingLoss<typename Layer::Balancer>::of_distribution,
                "kokomo::Layer: a ReLU gate routes by no distribution, so its balancing loss must take masses as they "
                "are (AdaptiveL1, RawMass<ReluScore>; docs/policies/balancer/adaptive_l1.md)");
  static_assert(
      reads_logits_of<Selector, typename Layer::Scorer> && reads_logits_of<Gate, typename Layer::Scorer> &&
          (std::is_same_v<typename Layer::Balancer, NoBalancer> ||
           reads_logits_of<typename Layer::Balancer,
                           typename Layer::Scorer>)&&(!Layer::has_adjust ||
                                                      reads_logits_of<typename Layer::Adjust, typename Layer::Scorer>),
      "kokomo::Layer: scorer, selector, gate, balancer and adjustment must mean the same by a column of the "
      "logits (using Logits; the logits of KeyScorer and GridScorer need PairTopK and PairGate)");
  static_assert(!ReadsActivations<Routed> || SharesActivations<typename Layer::Scorer, T, Exec>,
                "kokomo::Layer: AutonomousExperts continue from a scorer's activations and need ActivationNormScorer");
  static_assert(
      !Layer::has_placement || (!ReadsActivations<Routed> &&
                                !ObservesParameters<typename Layer::Balancer, typename Layer::Parameters, T, Exec>),
      "kokomo::Layer, slot placement: experts that share a place (ExpertMap) have no activations of their own "
      "(AutonomousExperts), and no weights of their own for a balancer of parameters");
  static_assert(!Layer::by_token || !Layer::weighs_input,
                "kokomo::Layer: experts that compute token by token (SingleNeuronExperts) cannot weigh their input "
                "(OnInput)");
}

template <class Layer> consteval void check_backward() {
  using T = typename Layer::Storage;
  using Exec = typename Layer::Exec;

  static_assert(bool(ScorerGradient<typename Layer::Scorer, T, Exec>),
                "kokomo::Layer::backward, slot Scorer: the policy lacks template <class T, class Exec> void "
                "backward(Exec, Parameters, Matrix<T const, Exec> x, Inputs, Matrix<compute_t<T> const, Exec> logits, "
                "Matrix<compute_t<T>, Exec> d_logits, Matrix<compute_t<T>, Exec> dx, InputGradients, Parameters grads, "
                "Write, Saved, BackwardScratch, WorkerScratch) const (docs/guide/add_a_policy.md)");
  static_assert(bool(GateGradient<typename Layer::Gate, T, Exec>),
                "kokomo::Layer::backward, slot Gate: the policy lacks template <class T, class Exec> void "
                "backward(Exec, Parameters, Routing<T, Exec>, Assignment<T, Exec>, Vector<compute_t<T> const, Exec> "
                "d_weight, Matrix<compute_t<T>, Exec> d_logits, Parameters grads, Write, BackwardScratch) const, which "
                "writes d_logits (docs/guide/add_a_policy.md)");
  static_assert(
      bool(ExpertsGradient<typename Layer::Routed, T, Exec> || ByTokenGradient<typename Layer::Routed, T, Exec>),
      "kokomo::Layer::backward, slot Experts: the policy lacks template <class T, class Exec> void "
      "backward(Exec, Parameters, ExpertRows<T, Exec>, ExpertRowGradients<T, Exec>, Parameters grads, Write, "
      "Saved, BackwardScratch) const (docs/guide/add_a_policy.md)");
  static_assert(
      bool(AdjustsGradient<typename Layer::Adjust, T, Exec> || !NamesAdjustBackward<typename Layer::Adjust, T, Exec>),
      "kokomo::Layer::backward, slot adjust: the policy's adjust_backward takes other arguments than (Exec, "
      "Parameters, Routing<T, Exec>, State, Inputs, Saved, Matrix<compute_t<T>, Exec> d_logits, Parameters "
      "grads, Write) (docs/guide/add_a_policy.md)");
  static_assert(bool(AdjustsGradient<typename Layer::Adjust, T, Exec> ||
                     std::is_same_v<parameters_t<typename Layer::Adjust, T, Exec>, Nothing>),
                "kokomo::Layer::backward, slot adjust: the policy has Parameters and lacks template <class T, class "
                "Exec> void adjust_backward(Exec, Parameters, Routing<T, Exec>, State, Inputs, Saved, "
                "Matrix<compute_t<T>, Exec> d_logits, Parameters grads, Write) const (docs/guide/add_a_policy.md)");
  static_assert(
      bool(ReduceGradient<typename Layer::Combine, T, Exec> || !Layer::reduces_rows),
      "kokomo::Layer::backward, slot combine: the policy lacks a BackwardScratch with `d_rows`, or template "
      "<class T, class Exec> void reduce_backward(Exec, Parameters, Assignment<T, Exec>, Matrix<compute_t<T>, "
      "Exec> d_routed, Vector<compute_t<T>, Exec> d_weight, Parameters grads, Write, Saved, "
      "BackwardScratch, WorkerScratch) const (docs/guide/add_a_policy.md)");
  static_assert(bool(CombineGradient<typename Layer::Combine, T, Exec>),
                "kokomo::Layer::backward, slot combine: the policy lacks template <class T, class Exec> void "
                "finish_backward(Exec, Parameters, Matrix<T const, Exec> dy, compute_t<T>* d_routed, compute_t<T>* "
                "d_shared, Parameters grads, Write, Saved, BackwardScratch) const (docs/guide/add_a_policy.md)");
}

} // namespace detail
} // namespace kokomo::inline v0

#endif
