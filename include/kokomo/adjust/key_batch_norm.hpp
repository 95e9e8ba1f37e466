// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ADJUST_KEY_BATCH_NORM_HPP
#define KOKOMO_ADJUST_KEY_BATCH_NORM_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/key_pairs.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Mean and inverse deviation of one column: of the batch, whose moments move the running ones, or the running ones.
template <class T, class Exec> struct ColumnMoments {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Matrix<C const, Exec> logits;
  Vector<C, Exec> running_mean, running_variance, mean, inverse;
  C epsilon, momentum;

  KOKKOS_FUNCTION void operator()(offset_t column) const {
    C m = running_mean[column], variance = running_variance[column];
    if (routing.mode == Mode::training) {
      offset_t n = 0;
      m = variance = 0;
      for (offset_t t = 0; t < routing.sizes.tokens; ++t)
        if (!routing.masked(t)) m += logits(t, column), ++n;
      m /= C(n > 0 ? n : 1);
      for (offset_t t = 0; t < routing.sizes.tokens; ++t)
        if (!routing.masked(t)) variance += (logits(t, column) - m) * (logits(t, column) - m);
      C const unbiased = variance / C(n > 1 ? n - 1 : 1);
      variance /= C(n > 0 ? n : 1);
      if (n > 0) {
        running_mean[column] += momentum * (m - running_mean[column]);
        running_variance[column] += momentum * (unbiased - running_variance[column]);
      }
    }
    mean[column] = m;
    inverse[column] = C(1) / Kokkos::sqrt(variance + epsilon);
  }
};

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

/// Moments of the batch depend on all of its logits, running ones on none.
template <class T, class Exec> struct ColumnMomentsBackward {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Vector<C, Exec> inverse;
  Matrix<C, Exec> normed, d;

  KOKKOS_FUNCTION void operator()(offset_t column) const {
    C mean = 0, along = 0;
    offset_t n = 0;
    for (offset_t t = 0; t < routing.sizes.tokens && routing.mode == Mode::training; ++t)
      if (!routing.masked(t)) mean += d(t, column), along += d(t, column) * normed(t, column), ++n;
    mean /= C(n > 0 ? n : 1), along /= C(n > 0 ? n : 1);
    for (offset_t t = 0; t < routing.sizes.tokens; ++t)
      d(t, column) = routing.masked(t) ? C(0) : inverse[column] * (d(t, column) - mean - normed(t, column) * along);
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
                     detail::ColumnMoments<T, Exec>{routing, logits, state.mean, state.variance, saved.mean,
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
                     detail::ColumnMomentsBackward<T, Exec>{routing, saved.inverse, saved.normed, d_logits});
  }

private:
  detail::KeyPairs pairs(Sizes const& sizes) const { return detail::KeyPairs::of(heads, rows, sizes.experts); }
  offset_t halves(Sizes const& sizes) const { return sizes.tokens * 2 * heads; }
};

} // namespace kokomo::inline v0

#endif
