// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_WINDOW_SCORER_HPP
#define KOKOMO_ROUTER_WINDOW_SCORER_HPP

#include <kokomo/router/hidden_layer_scorer.hpp>
#include <kokomo/router/pooled_scorer.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// The windows of one sequence of a batch: as many as asked for, but no more than tokens, of equal length from its start.
struct Windows {
  offset_t tokens, length, most; // of the batch, tokens of a sequence, windows of a sequence

  KOKKOS_FUNCTION offset_t of_sequence(offset_t sequence) const {
    return Kokkos::min(tokens, (sequence + 1) * length) - sequence * length;
  }
  KOKKOS_FUNCTION offset_t count(offset_t sequence) const { return Kokkos::min(most, of_sequence(sequence)); }
  KOKKOS_FUNCTION offset_t size(offset_t sequence) const { return of_sequence(sequence) / count(sequence); }
};

template <class T> struct PoolWindows {
  using C = compute_t<T>;
  Windows windows;
  T const* x;
  offset_t width;
  T* pooled; // [sequences * most, width]

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const slot = i / width, s = slot / windows.most, w = slot % windows.most;
    C sum = 0;
    if (w < windows.count(s)) {
      offset_t const size = windows.size(s), first = s * windows.length + w * size;
      for (offset_t t = first; t < first + size; ++t) sum += static_cast<C>(x[t * width + i % width]);
      sum /= C(size);
    }
    pooled[i] = static_cast<T>(sum);
  }
};

template <class C> struct AverageWindows {
  Windows windows;
  C const* of_window;
  index_t columns;
  C* of_sequence;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const s = i / columns, count = windows.count(s);
    C sum = 0;
    for (offset_t w = 0; w < count; ++w) sum += of_window[(s * windows.most + w) * columns + i % columns];
    of_sequence[i] = sum / C(count);
  }
};
template <class C> struct AverageWindowsBackward {
  Windows windows;
  C const* d_of_sequence;
  index_t columns;
  C* d_of_window;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const slot = i / columns, s = slot / windows.most, count = windows.count(s);
    d_of_window[i] = slot % windows.most < count ? d_of_sequence[s * columns + i % columns] / C(count) : C(0);
  }
};

template <class C> struct PoolWindowsBackward {
  Windows windows;
  C const* d_pooled;
  offset_t width;
  C* dx;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const token = i / width, s = token / windows.length, size = windows.size(s);
    offset_t const w = (token - s * windows.length) / size;
    if (w < windows.count(s)) dx[i] += d_pooled[(s * windows.most + w) * width + i % width] / C(size);
  }
};

} // namespace detail

/// One decision a sequence from the means of its windows: `inner` scores each mean, and all tokens of the sequence get the
/// average of these logits.
///
/// A sequence of n tokens has min(windows, n) windows of floor(n / that) tokens from its start; what is left at its end is
/// looked at by nobody. Padding counts as any token: the mask is not seen here. Parameters: those of `inner`.
/// Source: Dr.LLM (arXiv:2510.12773), parameterlab/dr-llm (docs/policies/router/window_scorer.md).
/// \throws kokomo::Error 101 unless tokens_per_sequence >= 1 and windows >= 1; those of inner
template <class Inner = HiddenLayerScorer<GeluTanh>> struct WindowScorer {
  static constexpr bool causal = false;

  offset_t tokens_per_sequence = 0; ///< >= 1
  offset_t windows = 8;             ///< >= 1
  Inner inner{};

  template <class T, class Exec> struct Parameters : parameters_t<Inner, T, Exec> {
    using Base = parameters_t<Inner, T, Exec>;
    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, WindowScorer const& policy, Sizes const& sizes)
        : Base(detail::make<Base>(allocate, policy.inner, policy.inner_sizes(sizes))) {}
  };
  template <class T, class Exec> struct Saved {
    Matrix<T, Exec> pooled;                       ///< [sequences * windows, router width]
    Matrix<compute_t<T>, Exec> logits, of_window; ///< [sequences, columns], [sequences * windows, columns]
    saved_t<Inner, T, Exec> inner;

    Saved(detail::Arena& arena, WindowScorer const& policy, Sizes const& sizes)
        : pooled(arena.matrix<T, Exec>(policy.inner_sizes(sizes).tokens, sizes.router_width)),
          logits(arena.matrix<compute_t<T>, Exec>(policy.sequences(sizes.tokens), sizes.columns)),
          of_window(arena.matrix<compute_t<T>, Exec>(policy.inner_sizes(sizes).tokens, sizes.columns)),
          inner(detail::make<saved_t<Inner, T, Exec>>(arena, policy.inner, policy.inner_sizes(sizes))) {}
  };
  template <class T, class Exec> struct Scratch {
    scratch_t<Inner, T, Exec> inner;

    Scratch(detail::Arena& arena, WindowScorer const& policy, Sizes const& sizes)
        : inner(detail::make<scratch_t<Inner, T, Exec>>(arena, policy.inner, policy.inner_sizes(sizes))) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Matrix<compute_t<T>, Exec> d_pooled, d_logits, d_of_window; // as in Saved
    backward_scratch_t<Inner, T, Exec> inner;

    BackwardScratch(detail::Arena& arena, WindowScorer const& policy, Sizes const& sizes)
        : d_pooled(arena.matrix<compute_t<T>, Exec>(policy.inner_sizes(sizes).tokens, sizes.router_width)),
          d_logits(arena.matrix<compute_t<T>, Exec>(policy.sequences(sizes.tokens), sizes.columns)),
          d_of_window(arena.matrix<compute_t<T>, Exec>(policy.inner_sizes(sizes).tokens, sizes.columns)),
          inner(detail::make<backward_scratch_t<Inner, T, Exec>>(arena, policy.inner, policy.inner_sizes(sizes))) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(tokens_per_sequence >= 1 && windows >= 1, 101,
                    "WindowScorer tokens_per_sequence = ", tokens_per_sequence, ", windows = ", windows,
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
    auto const w = cut(offset_t(x.extent(0)));
    auto const columns = index_t(logits.extent(1));
    detail::for_each(exec, "kokomo::WindowScorer::pool", offset_t(saved.pooled.size()),
                     detail::PoolWindows<T>{w, x.data(), offset_t(x.extent(1)), saved.pooled.data()});
    inner.template forward<T>(exec, parameters, Matrix<T const, Exec>(saved.pooled), Nothing{}, saved.of_window,
                              saved.inner, scratch.inner, workers);
    detail::for_each(exec, "kokomo::WindowScorer::average", offset_t(saved.logits.size()),
                     detail::AverageWindows<C>{w, saved.of_window.data(), columns, saved.logits.data()});
    detail::for_each(exec, "kokomo::WindowScorer::share", offset_t(logits.size()),
                     detail::ShareLogits<C>{saved.logits.data(), columns, tokens_per_sequence, logits.data()});
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
    auto const w = cut(tokens);
    auto const columns = index_t(d_logits.extent(1));
    detail::for_each(
        exec, "kokomo::WindowScorer::share_backward", offset_t(scratch.d_logits.size()),
        detail::ShareLogitsBackward<C>{d_logits.data(), columns, tokens, tokens_per_sequence, scratch.d_logits.data()});
    detail::for_each(
        exec, "kokomo::WindowScorer::average_backward", offset_t(scratch.d_of_window.size()),
        detail::AverageWindowsBackward<C>{w, scratch.d_logits.data(), columns, scratch.d_of_window.data()});
    detail::fill(exec, "kokomo::WindowScorer::reset", scratch.d_pooled.data(), offset_t(scratch.d_pooled.size()), 0);
    inner.template backward<T>(exec, parameters, Matrix<T const, Exec>(saved.pooled), Nothing{},
                               Matrix<C const, Exec>(saved.of_window), scratch.d_of_window, scratch.d_pooled, Nothing{},
                               grads, write, saved.inner, scratch.inner, workers);
    detail::for_each(exec, "kokomo::WindowScorer::pool_backward", tokens * width,
                     detail::PoolWindowsBackward<C>{w, scratch.d_pooled.data(), width, dx.data()});
  }

private:
  offset_t sequences(offset_t tokens) const {
    offset_t const length = Kokkos::max(tokens_per_sequence, offset_t(1));
    return (tokens + length - 1) / length;
  }
  detail::Windows cut(offset_t tokens) const { return {tokens, tokens_per_sequence, windows}; }
  Sizes inner_sizes(Sizes sizes) const {
    sizes.tokens = sequences(sizes.tokens) * Kokkos::max(windows, offset_t(1));
    return sizes;
  }
};

} // namespace kokomo::inline v0

#endif
