// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_KEY_SCORER_HPP
#define KOKOMO_ROUTER_KEY_SCORER_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/key_pairs.hpp>
#include <kokomo/detail/linear.hpp>

namespace kokomo::inline v0 {

/// Product keys with queries: each head of a token compares the two halves of its query with n keys each,
///
///     q = W x [2, heads, d],   z[h, half, i] = <q[half, h], key[h, i, half]>,   i = 0 .. n-1
///
/// and expert i n + j of n^2 has the logit z[h, 0, i] + z[h, 1, j] in head h. Only the 2 n heads numbers are written out,
/// O(sqrt(experts)); PairTopK finds the best pairs, PairGate weighs them.
/// Parameters: `queries` [2 heads d, router width], rows ordered (half, head, d); `keys` [heads, n, 2 d], the first half's d
/// numbers before the second's. Source: PEER (He 2024, arXiv:2407.04153), as PEER-pytorch has it; Lample et al. 2019.
/// \throws kokomo::Error 101 unless the number of experts is a square, heads and key_size at least 1
struct KeyScorer {
  using Logits = logits::key_pairs;

  int heads = 1;
  offset_t key_size = 0; ///< d, >= 1

  template <class T, class Exec> struct Parameters {
    OwnedMatrix<compute_t<T>, Exec> queries;
    OwnedTensor<compute_t<T>, Exec> keys;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, KeyScorer const& policy, Sizes const& sizes) {
      allocate(queries, "kokomo::KeyScorer::queries", policy.query_size(), sizes.router_width);
      allocate(keys, "kokomo::KeyScorer::keys", policy.heads, policy.pairs(sizes).rows, 2 * policy.key_size);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "queries"}, queries);
      f(Name{prefix, "keys"}, keys);
    }
  };
  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> queries; ///< [tokens, 2 heads d]

    Saved(detail::Arena& arena, KeyScorer const& policy, Sizes const& sizes)
        : queries(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.query_size())) {}
  };
  template <class T, class Exec> struct BackwardScratch : Saved<T, Exec> {
    using Saved<T, Exec>::Saved; // gradients of the queries
  };

  index_t columns(Sizes const& sizes) const { return heads * pairs(sizes).width(); }
  void check(Sizes const& sizes) const {
    pairs(sizes).check("KeyScorer", sizes);
    detail::require(key_size >= 1, 101, "KeyScorer key_size = ", key_size, ", expected at least 1");
  }

  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, heads 2 n]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
               Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved, Nothing const&,
               detail::WorkerScratch const& workers) const {
    project(exec, parameters, x, saved.queries, workers);
    compare<T>(exec, parameters, saved.queries, logits, workers);
  }

  /// \param[in] d_logits [tokens, heads 2 n]
  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x, Nothing const&,
                Matrix<compute_t<T> const, Exec> const&, Matrix<compute_t<T>, Exec> const& d_logits,
                Matrix<compute_t<T>, Exec> const& dx, Nothing const&, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    compare_backward<T>(exec, parameters, saved.queries, d_logits, scratch.queries, grads, write, workers);
    project_backward(exec, parameters, x, scratch.queries, dx, grads, write, workers);
  }

  offset_t query_size() const { return 2 * heads * key_size; }

  /// The two steps of forward, queries and their logits, and those of backward, for who puts something between them.
  template <class T, class Exec>
  void project(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
               Matrix<compute_t<T>, Exec> const& queries, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    detail::linear(exec, "kokomo::KeyScorer::queries", x.data(), offset_t(x.extent(0)), offset_t(x.extent(1)),
                   static_cast<C const*>(parameters.queries.data()), static_cast<C const*>(nullptr), query_size(),
                   queries.data(), Write::overwrite, workers);
  }
  template <class T, class Exec>
  void compare(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<compute_t<T>, Exec> const& queries,
               Matrix<compute_t<T>, Exec> const& logits, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    for_each_half(parameters, [&](offset_t query, offset_t key, offset_t logit, offset_t n) {
      detail::grouped_product(
          exec, "kokomo::KeyScorer::logits", rows(queries),
          detail::RowSource<C, C>{queries.data() + query, query_size()}, key_size,
          detail::WeightRef<C const>{parameters.keys.data() + key, 0, 2 * key_size, 1}, detail::BiasRef<C const>{}, n,
          detail::RowTarget<C>{logits.data() + logit, offset_t(logits.extent(1))}, Write::overwrite, workers);
    });
  }
  template <class T, class Exec>
  void compare_backward(Exec const& exec, Parameters<T, Exec> const& parameters,
                        Matrix<compute_t<T>, Exec> const& queries, Matrix<compute_t<T>, Exec> const& d_logits,
                        Matrix<compute_t<T>, Exec> const& d_queries, Parameters<T, Exec> const& grads, Write write,
                        detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const columns = offset_t(d_logits.extent(1));
    for_each_half(parameters, [&](offset_t query, offset_t key, offset_t logit, offset_t n) {
      detail::RowSource<C, C> const d{d_logits.data() + logit, columns};
      detail::grouped_outer_product(exec, "kokomo::KeyScorer::key_gradient", rows(queries), d, n,
                                    detail::RowSource<C, C>{queries.data() + query, query_size()}, key_size,
                                    detail::WeightRef<C>{grads.keys.data() + key, 0, 2 * key_size, 1}, write, workers);
      detail::grouped_product(exec, "kokomo::KeyScorer::query_gradient", rows(queries), d, n,
                              detail::WeightRef<C const>{parameters.keys.data() + key, 0, 1, 2 * key_size},
                              detail::BiasRef<C const>{}, key_size,
                              detail::RowTarget<C>{d_queries.data() + query, query_size()}, Write::overwrite, workers);
    });
  }
  template <class T, class Exec>
  void project_backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
                        Matrix<compute_t<T>, Exec> const& d_queries, Matrix<compute_t<T>, Exec> const& dx,
                        Parameters<T, Exec> const& grads, Write write, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const tokens = offset_t(x.extent(0)), width = offset_t(x.extent(1));
    C const* const d = d_queries.data();
    detail::linear_weight_gradient(exec, "kokomo::KeyScorer::queries_gradient", d, tokens, query_size(), x.data(),
                                   width, grads.queries.data(), write, workers);
    detail::linear_input_gradient(exec, "kokomo::KeyScorer::dx", d, tokens, width,
                                  static_cast<C const*>(parameters.queries.data()), query_size(), dx.data(), Write::add,
                                  workers);
  }

private:
  detail::KeyPairs pairs(Sizes const& sizes) const { return detail::KeyPairs::of(heads, 0, sizes.experts); }
  template <class X> static detail::GroupedRows rows(X const& x) {
    return {nullptr, nullptr, 1, offset_t(x.extent(0))};
  }

  /// f(where its query, its keys and its logits begin, number of keys) of each half of each head.
  template <class P, class F> void for_each_half(P const& parameters, F const& f) const {
    auto const n = offset_t(parameters.keys.extent(1));
    for (int head = 0; head < heads; ++head)
      for (int half = 0; half < 2; ++half)
        f((half * heads + head) * key_size, (head * n * 2 + half) * key_size, (head * 2 + half) * n, n);
  }
};

} // namespace kokomo::inline v0

#endif
