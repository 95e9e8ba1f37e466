// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_TOKEN_COVERAGE_LOSS_HPP
#define KOKOMO_BALANCER_TOKEN_COVERAGE_LOSS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/balance_counts.hpp>
#include <kokomo/detail/token_softmax.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct CoverageSums {
  TokenSoftmaxSums<T, Exec> sums;
  Matrix<compute_t<T>, Exec> log_sum; // [sequences, experts]

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const experts = offset_t(log_sum.extent(1));
    log_sum(i / experts, i % experts) = sums.log_sum(i / experts, index_t(i % experts));
  }
};

/// The mean share of a token.
template <class T, class Exec> struct CoverageOfToken {
  using C = compute_t<T>;
  TokenSoftmaxSums<T, Exec> sums;
  Matrix<C, Exec> log_sum;
  Vector<C, Exec> mean; // [tokens]

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C sum = 0;
    auto const experts = index_t(log_sum.extent(1));
    for (index_t e = 0; e < experts && !sums.routing.masked(token); ++e)
      sum += sums.share(token, e, log_sum(sums.sequences.of(token), e));
    mean[token] = sum / C(experts);
  }
};

template <class T, class Exec> struct CoverageOfSequence {
  using C = compute_t<T>;
  TokenSoftmaxSums<T, Exec> sums;
  Vector<C, Exec> mean;
  Vector<C, Exec> tokens; // [sequences] that take part
  Matrix<C, Exec> term;   // [sequences, 1]

  KOKKOS_FUNCTION void operator()(offset_t s) const {
    C squares = 0;
    offset_t count = 0;
    for (offset_t t = sums.sequences.begin(s); t < sums.sequences.end(s); ++t) {
      squares += mean[t] * mean[t];
      count += sums.routing.masked(t) ? 0 : 1;
    }
    tokens[s] = C(count);
    term(s, 0) = C(count) * squares;
  }
};

/// sum over the tokens of a sequence of share and mean, for one expert
template <class T, class Exec> struct CoverageAlong {
  using C = compute_t<T>;
  TokenSoftmaxSums<T, Exec> sums;
  Matrix<C, Exec> log_sum;
  Vector<C, Exec> mean;
  Matrix<C, Exec> along; // [sequences, experts]

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const experts = offset_t(along.extent(1));
    offset_t const s = i / experts;
    auto const e = index_t(i % experts);
    C sum = 0;
    for (offset_t t = sums.sequences.begin(s); t < sums.sequences.end(s); ++t)
      if (!sums.routing.masked(t)) sum += sums.share(t, e, log_sum(s, e)) * mean[t];
    along(s, e) = sum;
  }
};

template <class T, class Exec> struct CoverageGradient {
  using C = compute_t<T>;
  TokenSoftmaxSums<T, Exec> sums;
  Matrix<C, Exec> log_sum, along;
  Vector<C, Exec> mean, tokens;
  C factor;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (sums.routing.masked(token)) return;
    offset_t const s = sums.sequences.of(token);
    auto const experts = index_t(along.extent(1));
    C const scale = C(2) * factor * tokens[s] / C(experts);
    for (index_t e = 0; e < experts; ++e)
      d_logits(token, e) += scale * sums.share(token, e, log_sum(s, e)) * (mean[token] - along(s, e));
  }
};

} // namespace detail

/// Wants every token to get its share of the experts, where experts choose tokens:
///
///     loss = coefficient * mean over sequences of n sum_t m_t^2,   m_t = mean over experts of G_te
///
/// G_te the softmax of an expert's logits over the n tokens of a sequence; the m_t of a sequence sum to one, so that the
/// least value is the coefficient, at m_t = 1 / n. Masked tokens are in no sum. What is added to all logits of an expert
/// does not matter, so it may stand behind TokenSoftmax or not.
/// Source: tensorflow/mesh's expert selection (docs/policies/balancer/token_coverage_loss.md).
/// \throws kokomo::Error 106 for negative tokens_per_sequence
struct TokenCoverageLoss {
  float coefficient = 1e-2f;
  offset_t tokens_per_sequence = 0; ///< >= 0; 0: the whole batch is one

  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> log_sum; ///< [sequences, experts]
    Matrix<compute_t<T>, Exec> along;   ///< [sequences, experts]
    Vector<compute_t<T>, Exec> mean;    ///< [tokens] m
    Vector<compute_t<T>, Exec> tokens;  ///< [sequences] n
    Matrix<compute_t<T>, Exec> term;    ///< [sequences, 1] n sum m^2

    Saved(detail::Arena& arena, TokenCoverageLoss const& policy, Sizes const& sizes)
        : log_sum(arena.matrix<compute_t<T>, Exec>(policy.sequences(sizes).count(), sizes.experts)),
          along(arena.matrix<compute_t<T>, Exec>(policy.sequences(sizes).count(), sizes.experts)),
          mean(arena.vector<compute_t<T>, Exec>(sizes.tokens)),
          tokens(arena.vector<compute_t<T>, Exec>(policy.sequences(sizes).count())),
          term(arena.matrix<compute_t<T>, Exec>(policy.sequences(sizes).count(), 1)) {}
  };

  void check(Sizes const&) const {
    detail::require(tokens_per_sequence >= 0, 106, "TokenCoverageLoss tokens_per_sequence = ", tokens_per_sequence,
                    ", expected >= 0");
  }

  template <class T, class Exec, class State>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    auto const sums = this->sums(routing);
    offset_t const count = sums.sequences.count();
    detail::for_each(exec, "kokomo::TokenCoverageLoss::sum", count * routing.sizes.experts,
                     detail::CoverageSums<T, Exec>{sums, saved.log_sum});
    detail::for_each(exec, "kokomo::TokenCoverageLoss::mean", routing.sizes.tokens,
                     detail::CoverageOfToken<T, Exec>{sums, saved.log_sum, saved.mean});
    detail::for_each(exec, "kokomo::TokenCoverageLoss::term", count,
                     detail::CoverageOfSequence<T, Exec>{sums, saved.mean, saved.tokens, saved.term});
    detail::for_each(exec, "kokomo::TokenCoverageLoss::add", 1,
                     detail::AddLoss<C, Exec>{saved.term, factor<C>(count), loss});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    using C = compute_t<T>;
    auto const sums = this->sums(routing);
    offset_t const count = sums.sequences.count();
    detail::for_each(exec, "kokomo::TokenCoverageLoss::along", count * routing.sizes.experts,
                     detail::CoverageAlong<T, Exec>{sums, saved.log_sum, saved.mean, saved.along});
    detail::for_each(exec, "kokomo::TokenCoverageLoss::backward", routing.sizes.tokens,
                     detail::CoverageGradient<T, Exec>{sums, saved.log_sum, saved.along, saved.mean, saved.tokens,
                                                       factor<C>(count), d_logits});
  }

private:
  detail::Sequences sequences(Sizes const& sizes) const { return {sizes.tokens, tokens_per_sequence}; }
  template <class T, class Exec> detail::TokenSoftmaxSums<T, Exec> sums(Routing<T, Exec> const& routing) const {
    return {routing, routing.logits, sequences(routing.sizes)};
  }
  template <class C> C factor(offset_t count) const { return count > 0 ? C(coefficient) / C(count) : C(0); }
};

} // namespace kokomo::inline v0

#endif
