// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_PRODUCT_KEY_SCORER_HPP
#define KOKOMO_ROUTER_PRODUCT_KEY_SCORER_HPP

#include <kokomo/detail/launch.hpp>
#include <kokomo/router/linear_scorer.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Where the two halves of a token's keys stand in g: first(t, i) = g[t * stride + i], second a distance behind.
struct KeyHalves {
  index_t keys; // n, of each half
  offset_t stride, second;

  KOKKOS_FUNCTION offset_t a(offset_t token, index_t i) const { return token * stride + i; }
  KOKKOS_FUNCTION offset_t b(offset_t token, index_t j) const { return second + token * stride + j; }
};

template <class T> struct SumKeyPairs {
  using C = compute_t<T>;
  KeyHalves halves;
  C const* g;
  C* logits; // [tokens, n n]
  bool round;

  KOKKOS_FUNCTION void operator()(offset_t index) const {
    offset_t const pairs = offset_t(halves.keys) * halves.keys, token = index / pairs;
    auto const pair = index_t(index % pairs);
    C const sum = g[halves.a(token, pair / halves.keys)] + g[halves.b(token, pair % halves.keys)];
    logits[index] = round ? rounded_to<T>(sum) : sum;
  }
};

/// d_g of key i of both halves: the sums of a row and of a column of the token's [n, n] gradient.
template <class C> struct SumKeyPairsBackward {
  KeyHalves halves;
  C const* d_logits;
  C* d_g;

  KOKKOS_FUNCTION void operator()(offset_t index) const {
    offset_t const n = halves.keys, token = index / n;
    auto const i = index_t(index % n);
    C const* const d = d_logits + token * n * n;
    C row = 0, column = 0;
    for (offset_t j = 0; j < n; ++j) row += d[i * n + j], column += d[j * n + i];
    d_g[halves.a(token, i)] = row;
    d_g[halves.b(token, i)] = column;
  }
};

} // namespace detail

/// Product keys: a token scores 2 n keys, and expert i n + j of n^2 has the logit a_i + b_j,
///
///     g = linear(x) [tokens, 2 n],       a = g[t, 0 .. n-1],  b = g[t, n .. 2 n-1]
///
/// so that a router of n^2 experts has the weights of 2 n. The logits of all pairs are written out, O(tokens n^2), and
/// any selector may follow: exact for any N, sensible for thousands of experts; retrieval that only visits the best
/// keys of each half is another policy's work.
///
/// `.tokens_interleaved` reads g as [2, tokens, n] in memory order, as published Doge does: the halves of a token then
/// come from different tokens, so that its logits depend on the batch that it stands in.
/// Parameters: those of `linear` with 2 n rows. Source: Lample et al. 2019 (arXiv:1907.05242); transformers doge.
/// \throws kokomo::Error 101 unless the number of experts is a square; those of LinearScorer
struct ProductKeyScorer {
  LinearScorer linear{};
  bool tokens_interleaved = false;

  template <class T, class Exec> struct Parameters : LinearScorer::Parameters<T, Exec> {
    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, ProductKeyScorer const& policy, Sizes const& sizes)
        : LinearScorer::Parameters<T, Exec>(allocate, policy.linear, linear_sizes(sizes)) {}
  };
  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> keys; ///< [tokens, 2 n] g

    Saved(detail::Arena& arena, ProductKeyScorer const&, Sizes const& sizes)
        : keys(arena.matrix<compute_t<T>, Exec>(sizes.tokens, linear_sizes(sizes).columns)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Matrix<compute_t<T>, Exec> d_keys; // [tokens, 2 n]

    BackwardScratch(detail::Arena& arena, ProductKeyScorer const&, Sizes const& sizes)
        : d_keys(arena.matrix<compute_t<T>, Exec>(sizes.tokens, linear_sizes(sizes).columns)) {}
  };

  void check(Sizes const& sizes) const {
    index_t const n = keys_for(sizes.columns);
    detail::require(offset_t(n) * n == sizes.columns, 101, "ProductKeyScorer for ", sizes.columns,
                    " experts, expected a square number n n");
    linear.check(linear_sizes(sizes));
  }

  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, n n]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
               Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved, Nothing const&,
               detail::WorkerScratch const& workers) const {
    linear.forward<T>(exec, parameters, x, Nothing{}, saved.keys, Nothing{}, Nothing{}, workers);
    detail::for_each(exec, "kokomo::ProductKeyScorer::forward", offset_t(logits.size()),
                     detail::SumKeyPairs<T>{halves(saved.keys), saved.keys.data(), logits.data(), linear.round_logits});
  }

  /// \param[in] d_logits [tokens, n n]
  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
                Matrix<compute_t<T> const, Exec> const&, Matrix<compute_t<T>, Exec> const& d_logits,
                Matrix<compute_t<T>, Exec> const& dx, Nothing const&, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const halves = this->halves(saved.keys);
    detail::for_each(exec, "kokomo::ProductKeyScorer::backward", offset_t(saved.keys.size()) / 2,
                     detail::SumKeyPairsBackward<C>{halves, d_logits.data(), scratch.d_keys.data()});
    linear.backward<T>(exec, parameters, x, Nothing{}, Matrix<C const, Exec>(saved.keys), scratch.d_keys, dx, Nothing{},
                       grads, write, Nothing{}, Nothing{}, workers);
  }

private:
  /// n, rounded down where there is none.
  static index_t keys_for(index_t pairs) {
    index_t n = 0;
    while (offset_t(n + 1) * (n + 1) <= pairs) ++n;
    return n;
  }
  static Sizes linear_sizes(Sizes sizes) {
    sizes.columns = 2 * keys_for(sizes.columns);
    return sizes;
  }
  template <class M> detail::KeyHalves halves(M const& keys) const {
    auto const n = index_t(keys.extent(1) / 2);
    if (tokens_interleaved) return {n, n, offset_t(keys.extent(0)) * n};
    return {n, 2 * offset_t(n), n};
  }
};

} // namespace kokomo::inline v0

#endif
