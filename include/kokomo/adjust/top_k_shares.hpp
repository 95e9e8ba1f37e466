// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ADJUST_TOP_K_SHARES_HPP
#define KOKOMO_ADJUST_TOP_K_SHARES_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/ranking.hpp>
#include <kokomo/detail/sequences.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {

/// What the k best probabilities of a token are divided by.
enum class ShareOver {
  batch,  ///< an expert's sum over the tokens at the same position of all sequences
  experts ///< the token's sum over its experts
};

namespace detail {

/// Probabilities of a token, and those of its k best experts.
template <class T, class Exec> struct KeepBest {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  int k;
  Matrix<C, Exec> logits, p, kept;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    index_t const experts = routing.sizes.experts;
    C const* const z = &logits(token, 0);
    auto const row = SoftmaxScore::row(z, experts);
    bool const masked = routing.masked(token);
    for (index_t e = 0; e < experts; ++e) {
      C const mine = rankable(z[e]);
      int better = 0;
      for (index_t j = 0; j < experts; ++j) {
        C const other = rankable(z[j]);
        better += other > mine || (other == mine && j < e) ? 1 : 0;
      }
      p(token, e) = SoftmaxScore::value(row, z[e]);
      kept(token, e) = better < k && !masked ? p(token, e) : C(0);
    }
  }
};

/// g = factor kept / (sum + epsilon), and its gradient d_kept = factor (d - sum of d kept / (sum + epsilon)) / (sum + epsilon).
template <class T, class Exec> struct ShareKept {
  using C = compute_t<T>;
  Matrix<C const, Exec> kept;
  Matrix<C, Exec> values; // logits, or gradients in place
  C factor, epsilon;
  offset_t length; // of a sequence; 0: over experts
  bool backward;

  /// Element i of what is summed, from `begin` in steps of `stride`.
  KOKKOS_FUNCTION void share(offset_t begin, offset_t end, offset_t stride) const {
    C sum = epsilon, along = 0;
    for (offset_t i = begin; i < end; i += stride) sum += kept.data()[i];
    if (backward)
      for (offset_t i = begin; i < end; i += stride) along += values.data()[i] * kept.data()[i] / sum;
    for (offset_t i = begin; i < end; i += stride)
      values.data()[i] = factor * (backward ? values.data()[i] - along : kept.data()[i]) / sum;
  }
  /// One token over experts, or one expert over the tokens of a position.
  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const experts = offset_t(kept.extent(1));
    if (length == 0)
      share(i * experts, (i + 1) * experts, 1);
    else
      share(i, offset_t(kept.size()), length * experts);
  }
};

/// d_z = p (d_p - sum of p d_p), d_p that of what is kept.
template <class C, class Exec> struct KeepBestBackward {
  Matrix<C const, Exec> p, kept;
  Matrix<C, Exec> d;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    auto const experts = offset_t(p.extent(1));
    C along = 0;
    for (offset_t e = 0; e < experts; ++e) along += kept(token, e) * d(token, e);
    for (offset_t e = 0; e < experts; ++e) d(token, e) = kept(token, e) * d(token, e) - p(token, e) * along;
  }
};

} // namespace detail

/// Logits become shares of each token's k best probabilities, zero for all other experts:
///
///     m_te = softmax(z_t)_e if e is among the k best of t, else 0
///     z'_te = capacity * m_te / (sum over e of m_te + epsilon)                                       ShareOver::experts
///           = floor(capacity * B) m_te / (sum over the B sequences' tokens at t's position of m + epsilon)    batch
///
/// so that an expert that chooses tokens (ExpertChoice, by the logits) chooses among those that chose it. Ties go to the
/// smaller expert; masked tokens have no share. Not causal: `batch` sees other sequences of the call.
/// Source: Union of Experts, data selection (docs/policies/adjust/top_k_shares.md).
/// \throws kokomo::Error 102 unless 1 <= k <= experts, 106 unless capacity > 0 and epsilon > 0, or for negative
///         tokens_per_sequence
struct TopKShares {
  using slot = slots::adjust;
  static constexpr bool causal = false;
  bool causal_in(Mode) const { return over == ShareOver::experts; }

  int k = 2;
  ShareOver over = ShareOver::batch;
  offset_t tokens_per_sequence = 0; ///< 0: all tokens of the call are one
  float capacity = 1;               ///< > 0
  float epsilon = 1e-8f;            ///< > 0

  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> p, kept; ///< [tokens, experts] probabilities, and m

    Saved(detail::Arena& arena, TopKShares const&, Sizes const& sizes)
        : p(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.experts)),
          kept(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.experts)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(k >= 1 && k <= sizes.experts, 102, "TopKShares k = ", k, ", expected 1 to ", sizes.experts,
                    " (the routed experts)");
    detail::require(sizes.columns == sizes.experts, 101, "TopKShares reads ", sizes.columns,
                    " logits, expected one for each of the ", sizes.experts, " experts");
    detail::require(capacity > 0, 106, "TopKShares capacity = ", capacity, ", expected > 0");
    detail::require(epsilon > 0, 106, "TopKShares epsilon = ", epsilon, ", expected > 0");
    detail::require(tokens_per_sequence >= 0, 106, "TopKShares tokens_per_sequence = ", tokens_per_sequence,
                    ", expected >= 0");
  }

  template <class T, class Exec>
  void adjust(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved) const {
    detail::for_each(exec, "kokomo::TopKShares::keep", routing.sizes.tokens,
                     detail::KeepBest<T, Exec>{routing, k, logits, saved.p, saved.kept});
    share<T>(exec, routing.sizes, saved, logits, false);
  }

  template <class T, class Exec>
  void adjust_backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&,
                       Nothing const&, Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits,
                       Nothing const&, Write) const {
    share<T>(exec, routing.sizes, saved, d_logits, true);
    detail::for_each(exec, "kokomo::TopKShares::backward", routing.sizes.tokens,
                     detail::KeepBestBackward<compute_t<T>, Exec>{saved.p, saved.kept, d_logits});
  }

private:
  template <class T, class Exec>
  void share(Exec const& exec, Sizes const& sizes, Saved<T, Exec> const& saved,
             Matrix<compute_t<T>, Exec> const& values, bool backward) const {
    using C = compute_t<T>;
    detail::Sequences const sequences(sizes.tokens, tokens_per_sequence);
    bool const batch = over == ShareOver::batch;
    auto const factor = batch ? C(offset_t(double(capacity) * double(sequences.count()))) : C(capacity);
    offset_t const columns = batch ? Kokkos::min(sequences.length, sizes.tokens) * sizes.experts : sizes.tokens;
    detail::for_each(
        exec, "kokomo::TopKShares::share", columns,
        detail::ShareKept<T, Exec>{saved.kept, values, factor, C(epsilon), batch ? sequences.length : 0, backward});
  }
};

} // namespace kokomo::inline v0

#endif
