// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_POOLED_SCORER_HPP
#define KOKOMO_ROUTER_POOLED_SCORER_HPP

#include <kokomo/router/linear_scorer.hpp>

namespace kokomo::inline v0 {

/// What a sequence gives its scorer.
enum class Pooling {
  mean,   ///< the mean of its tokens
  flatten ///< its tokens one behind the other; a shorter last sequence is filled up with zeros
};

namespace detail {

template <class T> struct PoolSequences {
  using C = compute_t<T>;
  T const* x;
  offset_t tokens, width, length;
  Pooling pooling;
  T* pooled;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const columns = pooling == Pooling::mean ? width : width * length;
    offset_t const first = i / columns * length, last = Kokkos::min(tokens, first + length);
    if (pooling == Pooling::flatten) {
      offset_t const token = first + i % columns / width;
      pooled[i] = token < last ? x[token * width + i % width] : T(C(0));
      return;
    }
    C sum = 0;
    for (offset_t token = first; token < last; ++token) sum += static_cast<C>(x[token * width + i % width]);
    pooled[i] = static_cast<T>(sum / C(last - first));
  }
};

template <class C> struct UnpoolGradient {
  C const* d_pooled;
  offset_t tokens, width, length;
  Pooling pooling;
  C* dx;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const token = i / width, sequence = token / length, first = sequence * length;
    if (pooling == Pooling::flatten)
      dx[i] += d_pooled[sequence * width * length + (token - first) * width + i % width];
    else
      dx[i] += d_pooled[sequence * width + i % width] / C(Kokkos::min(tokens, first + length) - first);
  }
};

/// Every token of a sequence gets its sequence's logits.
template <class C> struct ShareLogits {
  C const* of_sequence;
  index_t columns;
  offset_t length;
  C* logits;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    logits[i] = of_sequence[i / columns / length * columns + i % columns];
  }
};

template <class C> struct ShareLogitsBackward {
  C const* d_logits;
  index_t columns;
  offset_t tokens, length;
  C* d_of_sequence;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const first = i / columns * length, last = Kokkos::min(tokens, first + length);
    C sum = 0;
    for (offset_t token = first; token < last; ++token) sum += d_logits[token * columns + i % columns];
    d_of_sequence[i] = sum;
  }
};

} // namespace detail

/// One decision a sequence: its tokens are pooled, `inner` scores the result, and all of them get these logits.
///
/// Sequences are `tokens_per_sequence` tokens one behind the other; the last one may be shorter. Padding counts as any
/// token: the mask is not seen here. Parameters: those of `inner`, for the pooled width.
/// Source: Union of Experts' expert selection (arXiv:2503.02495), which flattens; the mean is what Dr.LLM
/// (arXiv:2510.12773) takes of a window.
/// \throws kokomo::Error 101 unless tokens_per_sequence >= 1; those of inner
template <class Inner = LinearScorer> struct PooledScorer {
  static constexpr bool causal = false;

  offset_t tokens_per_sequence = 0; ///< >= 1
  Pooling pooling = Pooling::mean;
  Inner inner{};

  template <class T, class Exec> struct Parameters : parameters_t<Inner, T, Exec> {
    using Base = parameters_t<Inner, T, Exec>;
    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, PooledScorer const& policy, Sizes const& sizes)
        : Base(detail::make<Base>(allocate, policy.inner, policy.inner_sizes(sizes))) {}
  };
  template <class T, class Exec> struct Saved {
    Matrix<T, Exec> pooled;            ///< [sequences, pooled width]
    Matrix<compute_t<T>, Exec> logits; ///< [sequences, columns]
    saved_t<Inner, T, Exec> inner;

    Saved(detail::Arena& arena, PooledScorer const& policy, Sizes const& sizes)
        : pooled(arena.matrix<T, Exec>(policy.sequences(sizes.tokens), policy.inner_sizes(sizes).router_width)),
          logits(arena.matrix<compute_t<T>, Exec>(policy.sequences(sizes.tokens), sizes.columns)),
          inner(detail::make<saved_t<Inner, T, Exec>>(arena, policy.inner, policy.inner_sizes(sizes))) {}
  };
  template <class T, class Exec> struct Scratch {
    scratch_t<Inner, T, Exec> inner;

    Scratch(detail::Arena& arena, PooledScorer const& policy, Sizes const& sizes)
        : inner(detail::make<scratch_t<Inner, T, Exec>>(arena, policy.inner, policy.inner_sizes(sizes))) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Matrix<compute_t<T>, Exec> d_pooled; // [sequences, pooled width]
    Matrix<compute_t<T>, Exec> d_logits; // [sequences, columns]
    backward_scratch_t<Inner, T, Exec> inner;

    BackwardScratch(detail::Arena& arena, PooledScorer const& policy, Sizes const& sizes)
        : d_pooled(
              arena.matrix<compute_t<T>, Exec>(policy.sequences(sizes.tokens), policy.inner_sizes(sizes).router_width)),
          d_logits(arena.matrix<compute_t<T>, Exec>(policy.sequences(sizes.tokens), sizes.columns)),
          inner(detail::make<backward_scratch_t<Inner, T, Exec>>(arena, policy.inner, policy.inner_sizes(sizes))) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(tokens_per_sequence >= 1, 101, "PooledScorer tokens_per_sequence = ", tokens_per_sequence,
                    ", expected at least 1");
    detail::check_settings(inner, inner_sizes(sizes));
  }

  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, columns]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
               Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved, Scratch<T, Exec> const& scratch,
               detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::PooledScorer::pool", offset_t(saved.pooled.size()),
                     detail::PoolSequences<T>{x.data(), offset_t(x.extent(0)), offset_t(x.extent(1)),
                                              tokens_per_sequence, pooling, saved.pooled.data()});
    inner.template forward<T>(exec, parameters, Matrix<T const, Exec>(saved.pooled), Nothing{}, saved.logits,
                              saved.inner, scratch.inner, workers);
    detail::for_each(
        exec, "kokomo::PooledScorer::share", offset_t(logits.size()),
        detail::ShareLogits<C>{saved.logits.data(), index_t(logits.extent(1)), tokens_per_sequence, logits.data()});
  }

  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
                Matrix<compute_t<T> const, Exec> const&, Matrix<compute_t<T>, Exec> const& d_logits,
                Matrix<compute_t<T>, Exec> const& dx, Nothing const&, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const tokens = offset_t(x.extent(0)), width = offset_t(x.extent(1));
    detail::for_each(exec, "kokomo::PooledScorer::share_backward", offset_t(scratch.d_logits.size()),
                     detail::ShareLogitsBackward<C>{d_logits.data(), index_t(d_logits.extent(1)), tokens,
                                                    tokens_per_sequence, scratch.d_logits.data()});
    detail::fill(exec, "kokomo::PooledScorer::reset", scratch.d_pooled.data(), offset_t(scratch.d_pooled.size()), 0);
    inner.template backward<T>(exec, parameters, Matrix<T const, Exec>(saved.pooled), Nothing{},
                               Matrix<C const, Exec>(saved.logits), scratch.d_logits, scratch.d_pooled, Nothing{},
                               grads, write, saved.inner, scratch.inner, workers);
    detail::for_each(
        exec, "kokomo::PooledScorer::pool_backward", tokens * width,
        detail::UnpoolGradient<C>{scratch.d_pooled.data(), tokens, width, tokens_per_sequence, pooling, dx.data()});
  }

private:
  offset_t sequences(offset_t tokens) const {
    offset_t const length = Kokkos::max(tokens_per_sequence, offset_t(1));
    return (tokens + length - 1) / length;
  }
  Sizes inner_sizes(Sizes sizes) const {
    sizes.tokens = sequences(sizes.tokens);
    if (pooling == Pooling::flatten) sizes.router_width *= Kokkos::max(tokens_per_sequence, offset_t(1));
    return sizes;
  }
};

} // namespace kokomo::inline v0

#endif
