// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_LOAD_BALANCING_LOSS_HPP
#define KOKOMO_BALANCER_LOAD_BALANCING_LOSS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/ranking.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Which tokens share one sum.
struct LossScope {
  offset_t tokens = 0;
  offset_t sequence = 0; // tokens of one

  KOKKOS_FUNCTION offset_t begin(offset_t s) const { return s * sequence; }
  KOKKOS_FUNCTION offset_t end(offset_t s) const { return Kokkos::min(tokens, (s + 1) * sequence); }
  KOKKOS_FUNCTION offset_t of(offset_t token) const { return token / sequence; }
  offset_t count() const { return sequence == 0 ? 0 : (tokens + sequence - 1) / sequence; }
};

/// Softmax statistics of each token, and the experts that top-k of its logits alone would choose.
template <class T, class Exec> struct CountOwnTopK {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  LossScope scope;
  int k;
  Matrix<index_t, Exec> counts; // [sequences, experts]
  Matrix<C, Exec> softmax;      // [tokens, 2] max and inverse sum

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    index_t const n = routing.sizes.experts;
    auto const row = SoftmaxScore::row(routing.row(token), n);
    softmax(token, 0) = row.max;
    softmax(token, 1) = row.inverse_sum;
    if (routing.masked(token)) return;
    auto pick = ahead_of_all<C>();
    for (int j = 0; j < k; ++j) {
      pick = next_best(routing.row(token), n, pick);
      Kokkos::atomic_inc(&counts(scope.of(token), pick.index)); // integers: the sum has no order
    }
  }
};

/// f and P of one expert in one sequence.
template <class T, class Exec> struct LossTerm {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  LossScope scope;
  C picks; // counted entries a token
  Matrix<index_t, Exec> counts;
  Matrix<C, Exec> softmax;
  Matrix<C, Exec> fraction; // [sequences, experts] f / tokens in the sequence
  Matrix<C, Exec> term;     // [sequences, experts] f * P

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    index_t const e = static_cast<index_t>(i % routing.sizes.experts);
    offset_t const s = i / routing.sizes.experts;
    C sum = 0;
    offset_t tokens = 0;
    for (offset_t t = scope.begin(s); t < scope.end(s); ++t) {
      if (routing.masked(t)) continue;
      ++tokens;
      sum += SoftmaxScore::value(SoftmaxScore::Row<C>{softmax(t, 0), softmax(t, 1)}, routing.logits(t, e));
    }
    C const n = tokens > 0 ? C(tokens) : C(1);
    fraction(s, e) = C(counts(s, e)) / (n * picks) / n;
    term(s, e) = fraction(s, e) * sum;
  }
};

template <class C, class Exec> struct AddLoss {
  Matrix<C, Exec> term;
  C factor;
  Vector<C, Exec> loss;
  KOKKOS_FUNCTION void operator()(offset_t) const {
    C sum = 0;
    for (std::size_t i = 0; i < term.extent(0) * term.extent(1); ++i) sum += term.data()[i];
    loss[0] += factor * sum;
  }
};

template <class T, class Exec> struct LossGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  LossScope scope;
  C factor;
  Matrix<C, Exec> softmax;
  Matrix<C, Exec> fraction;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (routing.masked(token)) return;
    SoftmaxScore::Row<C> const row{softmax(token, 0), softmax(token, 1)};
    offset_t const s = scope.of(token);
    C const* const z = routing.row(token);
    C mean = 0;
    for (index_t e = 0; e < routing.sizes.experts; ++e) mean += fraction(s, e) * SoftmaxScore::value(row, z[e]);
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      d_logits(token, e) += factor * SoftmaxScore::value(row, z[e]) * (fraction(s, e) - mean);
  }
};

} // namespace detail

/// The load balancing loss of the softmax of the logits, whatever score the gate uses:
///
///     loss = coefficient * E * mean over sequences of sum_e f_e P_e,   f_e = picks of e / tokens,   P_e = mean of p_e
///
/// Picks are the `top_k` largest logits, without biases or groups, before any capacity; f is constant for the gradient.
/// At perfect balance sum_e f_e P_e = k / E, so the loss is coefficient * k, or coefficient with `.divide_by_k`. Masked
/// tokens leave every sum. Settings of published ones (docs/policies/balancer/load_balancing_loss.md):
/// Mixtral and all that share transformers' `load_balancing_loss_func`: top_k = k, one sequence; Switch: top_k = 1,
/// tokens_per_sequence = S; NLLB: top_k = 1; Doge: divide_by_k.
/// \throws kokomo::Error 102 unless 1 <= top_k <= experts, 106 for a negative tokens_per_sequence
struct LoadBalancingLoss {
  float coefficient = 1e-2f;
  int top_k = 2;                    ///< picks counted a token
  bool divide_by_k = false;         ///< f_e = picks of e / (tokens * top_k)
  offset_t tokens_per_sequence = 0; ///< 0: the whole batch is one

  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> softmax;  ///< [tokens, 2]
    Matrix<compute_t<T>, Exec> fraction; ///< [sequences, experts]
    Matrix<compute_t<T>, Exec> term;     ///< [sequences, experts]
    Matrix<index_t, Exec> counts;        ///< [sequences, experts]

    Saved(detail::Arena& arena, LoadBalancingLoss const& policy, Sizes const& sizes) {
      offset_t const sequences = policy.scope(sizes.tokens).count();
      softmax = arena.matrix<compute_t<T>, Exec>(sizes.tokens, 2);
      fraction = arena.matrix<compute_t<T>, Exec>(sequences, sizes.experts);
      term = arena.matrix<compute_t<T>, Exec>(sequences, sizes.experts);
      counts = arena.matrix<index_t, Exec>(sequences, sizes.experts);
    }
  };

  void check(Sizes const& sizes) const {
    detail::require(top_k >= 1 && top_k <= sizes.experts, 102, "LoadBalancingLoss top_k = ", top_k,
                    ", expected 1 <= top_k <= ", sizes.experts);
    detail::require(tokens_per_sequence >= 0, 106, "LoadBalancingLoss tokens_per_sequence = ", tokens_per_sequence,
                    ", expected >= 0");
  }

  template <class T, class Exec, class State>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    auto const scope = this->scope(routing.sizes.tokens);
    offset_t const terms = scope.count() * routing.sizes.experts;
    detail::fill(exec, "kokomo::LoadBalancingLoss::reset", saved.counts.data(), terms, 0);
    detail::for_each(exec, "kokomo::LoadBalancingLoss::count", routing.sizes.tokens,
                     detail::CountOwnTopK<T, Exec>{routing, scope, top_k, saved.counts, saved.softmax});
    detail::for_each(exec, "kokomo::LoadBalancingLoss::term", terms,
                     detail::LossTerm<T, Exec>{routing, scope, divide_by_k ? C(top_k) : C(1), saved.counts,
                                               saved.softmax, saved.fraction, saved.term});
    detail::for_each(exec, "kokomo::LoadBalancingLoss::add", 1,
                     detail::AddLoss<C, Exec>{saved.term, factor<C>(routing.sizes), loss});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::LoadBalancingLoss::backward", routing.sizes.tokens,
                     detail::LossGradient<T, Exec>{routing, scope(routing.sizes.tokens), factor<C>(routing.sizes),
                                                   saved.softmax, saved.fraction, d_logits});
  }

private:
  detail::LossScope scope(offset_t tokens) const {
    return {tokens, tokens_per_sequence > 0 ? tokens_per_sequence : tokens};
  }
  template <class C> C factor(Sizes const& sizes) const {
    offset_t const sequences = scope(sizes.tokens).count();
    return sequences > 0 ? C(coefficient) * C(sizes.experts) / C(sequences) : C(0);
  }
};

} // namespace kokomo::inline v0

#endif
