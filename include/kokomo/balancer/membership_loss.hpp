// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_MEMBERSHIP_LOSS_HPP
#define KOKOMO_BALANCER_MEMBERSHIP_LOSS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct MembershipTerm {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  index_t first;        // column of the first expert's logit
  Vector<C, Exec> term; // [tokens], negative: masked

  /// -log sigma(z) where chosen, -log(1 - sigma(z)) else: softplus(z) minus the chosen z.
  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C sum = 0;
    for (index_t e = 0; e < routing.sizes.experts; ++e) {
      C const z = routing.logits(token, first + e);
      sum += Kokkos::max(z, C(0)) + Kokkos::log1p(Kokkos::exp(-Kokkos::abs(z)));
    }
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      if (a.expert[i] != none) sum -= routing.logits(token, first + a.expert[i]);
    term[token] = routing.masked(token) ? C(-1) : Kokkos::max(sum, C(0));
  }
};

template <class C, class Exec> struct MembershipMean {
  Vector<C, Exec> term;
  Vector<C, Exec> factor; // [1] out: coefficient / (tokens * experts)
  Vector<C, Exec> loss;
  C coefficient;
  index_t experts;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    C sum = 0;
    offset_t tokens = 0;
    for (std::size_t t = 0; t < term.extent(0); ++t)
      if (!(term[t] < C(0))) sum += term[t], ++tokens;
    factor[0] = tokens > 0 ? coefficient / (C(tokens) * C(experts)) : C(0);
    loss[0] += sum * factor[0];
  }
};

template <class T, class Exec> struct MembershipGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  index_t first;
  Vector<C, Exec> factor;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (routing.masked(token)) return;
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      d_logits(token, first + e) += factor[0] * sigmoid(routing.logits(token, first + e));
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      if (a.expert[i] != none) d_logits(token, first + a.expert[i]) -= factor[0];
  }
};

} // namespace detail

/// Makes a threshold on the logits predict what a choice over a whole sequence took:
///
///     loss = coefficient * mean over tokens and experts of the cross entropy of sigma(z_te) with "e took t"
///
/// so that in inference, where later tokens are not known, `z > 0` stands for the choice (Mixture-of-Depths with
/// ExpertChoice and InferenceChoice::above_threshold). The choice is constant for the gradient. Masked tokens leave the
/// mean. With `.predicted`, z are the predictions of PredictedScorer, and `InferenceChoice::predicted` takes by them.
/// Source: Mixture-of-Depths, as third parties describe it (docs/policies/balancer/membership_loss.md).
/// \throws kokomo::Error 106 for a negative coefficient, 101 for predictions that the scorer does not have
struct MembershipLoss {
  float coefficient = 1e-2f; ///< >= 0
  bool predicted = false;    ///< of the predictor's logits, not the router's

  template <class T, class Exec> struct Saved {
    Vector<compute_t<T>, Exec> term;   ///< [tokens]
    Vector<compute_t<T>, Exec> factor; ///< [1]

    Saved(detail::Arena& arena, MembershipLoss const&, Sizes const& sizes)
        : term(arena.vector<compute_t<T>, Exec>(sizes.tokens)), factor(arena.vector<compute_t<T>, Exec>(1)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(coefficient >= 0, 106, "MembershipLoss coefficient = ", coefficient, ", expected >= 0");
    detail::require(!predicted || sizes.columns == 2 * sizes.experts, 101, "MembershipLoss of predictions reads ",
                    2 * sizes.experts, " columns of logits, expected those of the scorer: ", sizes.columns,
                    " (PredictedScorer)");
  }

  template <class T, class Exec, class State>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::MembershipLoss::term", a.tokens,
                     detail::MembershipTerm<T, Exec>{routing, a, first(routing.sizes), saved.term});
    detail::for_each(
        exec, "kokomo::MembershipLoss::mean", 1,
        detail::MembershipMean<C, Exec>{saved.term, saved.factor, loss, C(coefficient), routing.sizes.experts});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    detail::for_each(exec, "kokomo::MembershipLoss::backward", a.tokens,
                     detail::MembershipGradient<T, Exec>{routing, a, first(routing.sizes), saved.factor, d_logits});
  }

private:
  index_t first(Sizes const& sizes) const { return predicted ? sizes.experts : 0; }
};

} // namespace kokomo::inline v0

#endif
