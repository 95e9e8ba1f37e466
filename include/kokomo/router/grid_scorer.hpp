// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_GRID_SCORER_HPP
#define KOKOMO_ROUTER_GRID_SCORER_HPP

#include <kokomo/detail/key_pairs.hpp>
#include <kokomo/router/linear_scorer.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// The two ranges of a token's logits over which a log-softmax is taken, one a thread.
template <class C> struct GridHalf {
  KeyPairs pairs;
  offset_t half;

  KOKKOS_FUNCTION offset_t begin() const { return half / 2 * pairs.width() + (half % 2 == 0 ? 0 : pairs.rows); }
  KOKKOS_FUNCTION index_t size() const { return half % 2 == 0 ? pairs.rows : pairs.columns; }
};

template <class C> struct LogSoftmaxHalves {
  KeyPairs pairs;
  C* z;

  KOKKOS_FUNCTION void operator()(offset_t half) const {
    GridHalf<C> const range{pairs, half};
    C* const values = z + range.begin();
    C max = -Kokkos::Experimental::infinity_v<C>;
    for (index_t i = 0; i < range.size(); ++i) max = values[i] > max ? values[i] : max;
    C sum = 0;
    for (index_t i = 0; i < range.size(); ++i) sum += Kokkos::exp(values[i] - max);
    C const log_sum = max + Kokkos::log(sum);
    for (index_t i = 0; i < range.size(); ++i) values[i] -= log_sum;
  }
};

/// d <- d - softmax sum(d), from the logarithms themselves.
template <class C> struct LogSoftmaxHalvesBackward {
  KeyPairs pairs;
  C const* z;
  C* d;

  KOKKOS_FUNCTION void operator()(offset_t half) const {
    GridHalf<C> const range{pairs, half};
    C sum = 0;
    for (index_t i = 0; i < range.size(); ++i) sum += d[range.begin() + i];
    if (sum == C(0)) return;
    for (index_t i = 0; i < range.size(); ++i) d[range.begin() + i] -= sum * Kokkos::exp(z[range.begin() + i]);
  }
};

} // namespace detail

/// A Cartesian grid of experts: a distribution over rows, one over columns, and expert i C + j of R C has their product,
///
///     z[0, i] = log softmax(W_rows x)_i,   z[1, j] = log softmax(W_columns x)_j,   logit = z[0, i] + z[1, j]
///
/// so that the probabilities of all experts sum to one and the router has the weights of R + C. PairTopK finds the best
/// pairs, PairGate weighs them. Parameters: those of LinearScorer, `weight` [R + C, router width], rows first.
/// Source: OmniMoE (arXiv:2602.05711).
/// \throws kokomo::Error 101 unless the number of rows divides the experts
struct GridScorer {
  using Logits = logits::key_pairs;

  index_t rows = 0;        ///< R, 0: the square root of the number of experts
  bool log_softmax = true; ///< false: z as the products give it

  template <class T, class Exec> struct Parameters : LinearScorer::Parameters<T, Exec> {
    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, GridScorer const&, Sizes const& sizes)
        : LinearScorer::Parameters<T, Exec>(allocate, LinearScorer{}, sizes) {}
  };

  index_t columns(Sizes const& sizes) const { return pairs(sizes).width(); }
  void check(Sizes const& sizes) const {
    detail::require(rows >= 0, 101, "GridScorer rows = ", rows, ", expected >= 0");
    pairs(sizes).check("GridScorer", sizes);
  }

  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, R + C]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
               Matrix<compute_t<T>, Exec> const& logits, Nothing const&, Nothing const&,
               detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    LinearScorer{}.forward<T>(exec, parameters, x, Nothing{}, logits, Nothing{}, Nothing{}, workers);
    if (log_softmax)
      detail::for_each(exec, "kokomo::GridScorer::log_softmax", 2 * offset_t(logits.extent(0)),
                       detail::LogSoftmaxHalves<C>{split(logits), logits.data()});
  }

  /// \param[in,out] d_logits [tokens, R + C], used up
  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
                Matrix<compute_t<T> const, Exec> const& logits, Matrix<compute_t<T>, Exec> const& d_logits,
                Matrix<compute_t<T>, Exec> const& dx, Nothing const&, Parameters<T, Exec> const& grads, Write write,
                Nothing const&, Nothing const&, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    if (log_softmax)
      detail::for_each(exec, "kokomo::GridScorer::log_softmax_backward", 2 * offset_t(logits.extent(0)),
                       detail::LogSoftmaxHalvesBackward<C>{split(logits), logits.data(), d_logits.data()});
    LinearScorer{}.backward<T>(exec, parameters, x, Nothing{}, logits, d_logits, dx, Nothing{}, grads, write, Nothing{},
                               Nothing{}, workers);
  }

private:
  detail::KeyPairs pairs(Sizes const& sizes) const { return detail::KeyPairs::of(1, rows, sizes.experts); }
  template <class M> detail::KeyPairs split(M const& logits) const {
    auto const width = index_t(logits.extent(1));
    index_t const first = rows > 0 ? rows : width / 2;
    return {1, first, width - first};
  }
};

} // namespace kokomo::inline v0

#endif
