// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ADJUST_TOKEN_SOFTMAX_HPP
#define KOKOMO_ADJUST_TOKEN_SOFTMAX_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/token_softmax.hpp>
#include <kokomo/error.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// One expert of one sequence: z <- z - log sum exp z, and its shares are kept.
template <class T, class Exec> struct NormalizeOverTokens {
  using C = compute_t<T>;
  TokenSoftmaxSums<T, Exec> sums;
  Matrix<C, Exec> logits, shares;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const experts = offset_t(shares.extent(1));
    offset_t const s = i / experts;
    auto const e = index_t(i % experts);
    C const log_sum = sums.log_sum(s, e);
    for (offset_t t = sums.sequences.begin(s); t < sums.sequences.end(s); ++t) {
      bool const masked = sums.routing.masked(t);
      shares(t, e) = masked ? C(0) : sums.share(t, e, log_sum);
      if (!masked && log_sum > -Kokkos::Experimental::infinity_v<C>) logits(t, e) -= log_sum;
    }
  }
};

/// d <- d - share sum d
template <class T, class Exec> struct NormalizeOverTokensBackward {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Sequences sequences;
  Matrix<C, Exec> shares, d;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const experts = offset_t(shares.extent(1));
    offset_t const s = i / experts, e = i % experts;
    C sum = 0;
    for (offset_t t = sequences.begin(s); t < sequences.end(s); ++t)
      if (!routing.masked(t)) sum += d(t, e);
    for (offset_t t = sequences.begin(s); t < sequences.end(s); ++t)
      if (!routing.masked(t)) d(t, e) -= shares(t, e) * sum;
  }
};

} // namespace detail

/// Logits become the logarithms of a softmax over tokens instead of experts:
///
///     z'_te = z_te - log sum over the tokens u of the sequence of exp z_ue
///
/// so that each expert shares one unit among the tokens of a sequence. ExpertChoice then takes the largest shares, and
/// ScoreGate<ExponentialScore, Normalize::count> weighs by them, divided by how many experts took the token. Masked tokens
/// have no share. Not causal. Source: tensorflow/mesh's expert selection (docs/policies/adjust/token_softmax.md).
/// \throws kokomo::Error 106 for negative tokens_per_sequence
struct TokenSoftmax {
  using slot = slots::adjust;
  static constexpr bool causal = false;

  offset_t tokens_per_sequence = 0; ///< >= 0; 0: the whole batch is one

  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> shares; ///< [tokens, experts] exp z'

    Saved(detail::Arena& arena, TokenSoftmax const&, Sizes const& sizes)
        : shares(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.experts)) {}
  };

  void check(Sizes const&) const {
    detail::require(tokens_per_sequence >= 0, 106, "TokenSoftmax tokens_per_sequence = ", tokens_per_sequence,
                    ", expected >= 0");
  }

  template <class T, class Exec>
  void adjust(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved) const {
    auto const sequences = this->sequences(routing.sizes);
    detail::for_each(exec, "kokomo::TokenSoftmax::adjust", sequences.count() * routing.sizes.experts,
                     detail::NormalizeOverTokens<T, Exec>{{routing, logits, sequences}, logits, saved.shares});
  }

  template <class T, class Exec>
  void adjust_backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&,
                       Nothing const&, Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits,
                       Nothing const&, Write) const {
    auto const sequences = this->sequences(routing.sizes);
    detail::for_each(exec, "kokomo::TokenSoftmax::backward", sequences.count() * routing.sizes.experts,
                     detail::NormalizeOverTokensBackward<T, Exec>{routing, sequences, saved.shares, d_logits});
  }

private:
  detail::Sequences sequences(Sizes const& sizes) const { return {sizes.tokens, tokens_per_sequence}; }
};

} // namespace kokomo::inline v0

#endif
