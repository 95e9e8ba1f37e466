// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_BALANCED_ASSIGNMENT_HPP
#define KOKOMO_ROUTER_BALANCED_ASSIGNMENT_HPP

#include <kokomo/detail/auction.hpp>
#include <kokomo/router/top_k.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct EnterAssignment {
  Assignment<T, Exec> a;
  Vector<index_t, Exec> expert;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    a.token_offsets[token] = token;
    if (token < a.tokens) a.choose(token, expert[token]);
  }
};

} // namespace detail

/// One expert a token, and every expert equally many: in training the assignment with the largest sum of logits, by an
/// auction; in inference the best logit.
///
/// With n tokens that are not masked and E experts, an expert takes floor(n / E) of them or one more. The sum of the logits
/// is within n epsilon of the largest possible one, epsilon = max(accuracy * (largest - least logit), minimum_epsilon),
/// unless `rounds` bids a token did not suffice and the rest was placed greedily. Ends for any T and E.
/// With SigmoidGate and experts inside a residual connection this is a BASE layer.
/// Not causal. Source: facebookresearch/fairseq BASE layers, with another auction
/// (docs/policies/router/balanced_assignment.md).
/// \throws kokomo::Error 106 unless accuracy >= 0, minimum_epsilon > 0, rounds >= 0
struct BalancedAssignment {
  static constexpr bool causal = false;
  bool causal_in(Mode mode) const { return mode == Mode::inference; }
  static constexpr bool balances_itself = true;

  float accuracy = 0.02f;        ///< >= 0, share of the logits' range
  float minimum_epsilon = 1e-4f; ///< > 0
  offset_t rounds = 1000;        ///< >= 0, at most so many bids a token

  template <class T, class Exec> struct Scratch : detail::AuctionMemory<compute_t<T>, Exec> {
    Scratch(detail::Arena& arena, BalancedAssignment const&, Sizes const& sizes)
        : detail::AuctionMemory<compute_t<T>, Exec>(arena, sizes.tokens, sizes.experts) {}
  };

  offset_t entries_per_token(Sizes const&) const { return 1; }
  void check(Sizes const&) const {
    detail::require(accuracy >= 0, 106, "BalancedAssignment accuracy = ", accuracy, ", expected >= 0");
    detail::require(minimum_epsilon > 0, 106, "BalancedAssignment minimum_epsilon = ", minimum_epsilon,
                    ", expected > 0");
    detail::require(rounds >= 0, 106, "BalancedAssignment rounds = ", rounds, ", expected >= 0");
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    if (routing.mode == Mode::inference)
      return detail::for_each(exec, "kokomo::BalancedAssignment::best", a.tokens + 1,
                              detail::SelectTopK<IdentityScore, C, 1, T, Exec>{routing, a, scratch.scores, 1});
    detail::auction<T, Exec>(exec, routing, scratch, {C(accuracy), C(minimum_epsilon), rounds});
    detail::for_each(exec, "kokomo::BalancedAssignment::enter", a.tokens + 1,
                     detail::EnterAssignment<T, Exec>{a, scratch.expert});
  }
};

} // namespace kokomo::inline v0

#endif
