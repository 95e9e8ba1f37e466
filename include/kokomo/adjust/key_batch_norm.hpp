// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ADJUST_KEY_BATCH_NORM_HPP
#define KOKOMO_ADJUST_KEY_BATCH_NORM_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/batch_norm.hpp>
#include <kokomo/detail/key_pairs.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// The columns of one half of one head of a token.
template <class C, class Exec> struct KeyRange {
  KeyPairs pairs;
  offset_t token;
  index_t begin, end;

  KOKKOS_FUNCTION KeyRange(KeyPairs const& p, offset_t index) : pairs(p), token(index / (2 * p.heads)) {
    auto const half = index_t(index % (2 * p.heads));
    begin = half / 2 * p.width() + (half % 2 == 0 ? 0 : p.rows);
    end = begin + (half % 2 == 0 ? p.rows : p.columns);
  }
  KOKKOS_FUNCTION C log_sum(Matrix<C, Exec> const& z) const {
    C max = -Kokkos::Experimental::infinity_v<C>, sum = 0;
    for (index_t c = begin; c < end; ++c) max = z(token, c) > max ? z(token, c) : max;
    for (index_t c = begin; c < end; ++c) sum += Kokkos::exp(z(token, c) - max);
    return max + Kokkos::log(sum);
  }
};

template <class C, class Exec> struct NormalizeKeys {
  KeyPairs pairs;
  Vector<C, Exec> mean, inverse;
  Matrix<C, Exec> normed, logits;
  bool log_softmax;

  KOKKOS_FUNCTION void operator()(offset_t index) const {
    KeyRange<C, Exec> const range(pairs, index);
    offset_t const t = range.token;
    for (index_t c = range.begin; c < range.end; ++c) normed(t, c) = (logits(t, c) - mean[c]) * inverse[c];
    C const log_sum = log_softmax ? range.log_sum(normed) : C(0);
    for (index_t c = range.begin; c < range.end; ++c) logits(t, c) = normed(t, c) - log_sum;
  }
};

/// d <- d - softmax sum d
template <class C, class Exec> struct LogSoftmaxKeysBackward {
  KeyPairs pairs;
  Matrix<C, Exec> normed, d;

  KOKKOS_FUNCTION void operator()(offset_t index) const {
    KeyRange<C, Exec> const range(pairs, index);
    offset_t const t = range.token;
    C const log_sum = range.log_sum(normed);
    C sum = 0;
    for (index_t c = range.begin; c < range.end; ++c) sum += d(t, c);
    for (index_t c = range.begin; c < range.end; ++c) d(t, c) -= sum * Kokkos::exp(normed(t, c) - log_sum);
  }
};

} // namespace detail

/// Batch norm of the keys' logits, column by column, then their log-softmax:
///
///     u = (z - mean) / sqrt(variance + epsilon),   z' = u - log sum over the half's keys of exp u
///
/// In training mean and variance are those of the batch's tokens that are not masked, and move the running ones, which
/// inference takes. For a GridScorer with `.log_softmax = false`; `heads` and `rows` as its selector and gate have them.
/// State: `mean`, `variance` [columns]; begin with variances of one. Not causal, through training.
/// Source: OmniMoE's code (docs/policies/adjust/key_batch_norm.md).
/// \throws kokomo::Error 101 for heads or rows that do not fit the logits, 106 unless epsilon > 0 and 0 <= momentum <= 1
struct KeyBatchNorm {
  using slot = slots::adjust;
  using Logits = logits::key_pairs;
  static constexpr bool causal = false;
  bool causal_in(Mode mode) const { return mode == Mode::inference; }

  int heads = 1;
  index_t rows = 0;        ///< 0: the square root of the number of experts
  bool log_softmax = true; ///< false: z' = u
  float epsilon = 1e-5f;   ///< > 0
  float momentum = 0.1f;   ///< 0 .. 1, of a batch in the running moments

  template <class T, class Exec> struct State {
    OwnedVector<compute_t<T>, Exec> mean, variance;

    State() = default;
    State(Allocator<Exec> const& allocate, KeyBatchNorm const&, Sizes const& sizes) {
      allocate(mean, "kokomo::KeyBatchNorm::mean", sizes.columns);
      allocate(variance, "kokomo::KeyBatchNorm::variance", sizes.columns);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "mean"}, mean);
      f(Name{prefix, "variance"}, variance);
    }
  };
  template <class T, class Exec> struct Saved {
    Vector<compute_t<T>, Exec> mean, inverse; ///< [columns]
    Matrix<compute_t<T>, Exec> normed;        ///< [tokens, columns] u

    Saved(detail::Arena& arena, KeyBatchNorm const&, Sizes const& sizes)
        : mean(arena.vector<compute_t<T>, Exec>(sizes.columns)),
          inverse(arena.vector<compute_t<T>, Exec>(sizes.columns)),
          normed(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.columns)) {}
  };

  void check(Sizes const& sizes) const {
    pairs(sizes).check("KeyBatchNorm", sizes);
    detail::require(epsilon > 0, 106, "KeyBatchNorm epsilon = ", epsilon, ", expected > 0");
    detail::require(momentum >= 0 && momentum <= 1, 106, "KeyBatchNorm momentum = ", momentum, ", expected 0 .. 1");
  }

  template <class T, class Exec>
  void adjust(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, State<T, Exec> const& state,
              Nothing const&, Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::KeyBatchNorm::moments", routing.sizes.columns,
                     detail::ColumnMoments<T, Exec>{tokens(routing), logits, state.mean, state.variance, saved.mean,
                                                    saved.inverse, C(epsilon), C(momentum)});
    detail::for_each(exec, "kokomo::KeyBatchNorm::adjust", halves(routing.sizes),
                     detail::NormalizeKeys<C, Exec>{pairs(routing.sizes), saved.mean, saved.inverse, saved.normed,
                                                    logits, log_softmax});
  }

  template <class T, class Exec>
  void adjust_backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, State<T, Exec> const&,
                       Nothing const&, Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits,
                       Nothing const&, Write) const {
    using C = compute_t<T>;
    if (log_softmax)
      detail::for_each(exec, "kokomo::KeyBatchNorm::softmax_backward", halves(routing.sizes),
                       detail::LogSoftmaxKeysBackward<C, Exec>{pairs(routing.sizes), saved.normed, d_logits});
    detail::for_each(exec, "kokomo::KeyBatchNorm::backward", routing.sizes.columns,
                     detail::ColumnMomentsBackward<T, Exec>{tokens(routing), saved.inverse, saved.normed, d_logits});
  }

private:
  template <class T, class Exec> static detail::BatchTokens<Exec> tokens(Routing<T, Exec> const& routing) {
    return {routing.token_mask, routing.sizes.tokens, routing.mode};
  }
  detail::KeyPairs pairs(Sizes const& sizes) const { return detail::KeyPairs::of(heads, rows, sizes.experts); }
  offset_t halves(Sizes const& sizes) const { return sizes.tokens * 2 * heads; }
};

} // namespace kokomo::inline v0

#endif
