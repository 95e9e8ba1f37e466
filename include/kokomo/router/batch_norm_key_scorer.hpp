// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_BATCH_NORM_KEY_SCORER_HPP
#define KOKOMO_ROUTER_BATCH_NORM_KEY_SCORER_HPP

#include <kokomo/detail/batch_norm.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/router/key_scorer.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// One number of a token's queries: normalised, then weight and bias of its column.
template <class C, class Exec> struct NormalizeQueries {
  Matrix<C, Exec> queries, normed;
  Vector<C const, Exec> mean, inverse, weight, bias;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const columns = offset_t(queries.extent(1)), c = i % columns;
    C& q = queries.data()[i];
    C const u = (q - mean[c]) * inverse[c];
    normed.data()[i] = u;
    q = u * weight[c] + bias[c];
  }
};

/// One column: gradients of its weight and bias over the tokens in order, then d <- d weight.
template <class C, class Exec> struct ScaleQueriesBackward {
  Matrix<C const, Exec> normed;
  Vector<C const, Exec> weight;
  Matrix<C, Exec> d;
  Vector<C, Exec> d_weight, d_bias;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t c) const {
    C of_weight = write == Write::add ? d_weight[c] : C(0), of_bias = write == Write::add ? d_bias[c] : C(0);
    for (offset_t t = 0; t < offset_t(d.extent(0)); ++t) {
      of_weight += d(t, c) * normed(t, c);
      of_bias += d(t, c);
      d(t, c) *= weight[c];
    }
    d_weight[c] = of_weight, d_bias[c] = of_bias;
  }
};

} // namespace detail

/// Product keys whose queries pass a batch norm, number by number over all heads, before they meet the keys:
///
///     q = W x,   q' = (q - mean) / sqrt(variance + epsilon) * weight + bias,   z[h, half, i] = <q'[half, h], key[h, i, half]>
///
/// In training mean and variance are those of the batch's tokens that are not masked, and move the running ones, which
/// inference takes. Not causal, through training.
/// Parameters: those of `keys`, `norm_weight` and `norm_bias` [2 heads d]; begin with weights of one.
/// State: `mean`, `variance` [2 heads d]; begin with variances of one. Source: docs/policies/router/batch_norm_key_scorer.md.
/// \throws kokomo::Error 101 as KeyScorer, 106 unless epsilon > 0 and 0 <= momentum <= 1
struct BatchNormKeyScorer {
  using Logits = logits::key_pairs;
  static constexpr bool causal = false;
  bool causal_in(Mode mode) const { return mode == Mode::inference; }

  KeyScorer keys{};
  float epsilon = 1e-5f; ///< > 0
  float momentum = 0.1f; ///< 0 .. 1, of a batch in the running moments

  template <class T, class Exec> struct Parameters : KeyScorer::Parameters<T, Exec> {
    OwnedVector<compute_t<T>, Exec> norm_weight, norm_bias;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, BatchNormKeyScorer const& policy, Sizes const& sizes)
        : KeyScorer::Parameters<T, Exec>(allocate, policy.keys, sizes) {
      allocate(norm_weight, "kokomo::BatchNormKeyScorer::norm_weight", policy.keys.query_size());
      allocate(norm_bias, "kokomo::BatchNormKeyScorer::norm_bias", policy.keys.query_size());
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      KeyScorer::Parameters<T, Exec>::for_each(f, prefix);
      f(Name{prefix, "norm_weight"}, norm_weight);
      f(Name{prefix, "norm_bias"}, norm_bias);
    }
  };
  template <class T, class Exec> struct State {
    OwnedVector<compute_t<T>, Exec> mean, variance;

    State() = default;
    State(Allocator<Exec> const& allocate, BatchNormKeyScorer const& policy, Sizes const&) {
      allocate(mean, "kokomo::BatchNormKeyScorer::mean", policy.keys.query_size());
      allocate(variance, "kokomo::BatchNormKeyScorer::variance", policy.keys.query_size());
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "mean"}, mean);
      f(Name{prefix, "variance"}, variance);
    }
  };
  template <class T, class Exec> struct Inputs : CallInfo {};
  template <class T, class Exec> struct Saved : KeyScorer::Saved<T, Exec> {
    Matrix<compute_t<T>, Exec> normed;        ///< [tokens, 2 heads d]
    Vector<compute_t<T>, Exec> mean, inverse; ///< [2 heads d]

    Saved(detail::Arena& arena, BatchNormKeyScorer const& policy, Sizes const& sizes)
        : KeyScorer::Saved<T, Exec>(arena, policy.keys, sizes),
          normed(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.keys.query_size())),
          mean(arena.vector<compute_t<T>, Exec>(policy.keys.query_size())),
          inverse(arena.vector<compute_t<T>, Exec>(policy.keys.query_size())) {}
  };
  template <class T, class Exec> struct BackwardScratch : KeyScorer::BackwardScratch<T, Exec> {
    BackwardScratch(detail::Arena& arena, BatchNormKeyScorer const& policy, Sizes const& sizes)
        : KeyScorer::BackwardScratch<T, Exec>(arena, policy.keys, sizes) {}
  };

  index_t columns(Sizes const& sizes) const { return keys.columns(sizes); }
  void check(Sizes const& sizes) const {
    keys.check(sizes);
    detail::require(epsilon > 0, 106, "BatchNormKeyScorer epsilon = ", epsilon, ", expected > 0");
    detail::require(momentum >= 0 && momentum <= 1, 106, "BatchNormKeyScorer momentum = ", momentum,
                    ", expected 0 .. 1");
  }

  /// \param[in] token_mask [tokens] 0: takes no part in the moments; null: all do
  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, heads 2 n]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, State<T, Exec> const& state,
               Vector<index_t const, Exec> const& token_mask, Matrix<T const, Exec> const& x,
               Inputs<T, Exec> const& inputs, Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved,
               Nothing const&, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    keys.project<T, Exec>(exec, parameters, x, saved.queries, workers);
    detail::for_each(exec, "kokomo::BatchNormKeyScorer::moments", keys.query_size(),
                     detail::ColumnMoments<T, Exec>{{token_mask, offset_t(x.extent(0)), inputs.mode},
                                                    saved.queries,
                                                    state.mean,
                                                    state.variance,
                                                    saved.mean,
                                                    saved.inverse,
                                                    C(epsilon),
                                                    C(momentum)});
    detail::for_each(exec, "kokomo::BatchNormKeyScorer::forward", offset_t(saved.queries.size()),
                     detail::NormalizeQueries<C, Exec>{saved.queries, saved.normed, saved.mean, saved.inverse,
                                                       parameters.norm_weight, parameters.norm_bias});
    keys.compare<T, Exec>(exec, parameters, saved.queries, logits, workers);
  }

  /// \param[in] d_logits [tokens, heads 2 n]
  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, State<T, Exec> const&,
                Vector<index_t const, Exec> const& token_mask, Matrix<T const, Exec> const& x,
                Inputs<T, Exec> const& inputs, Matrix<compute_t<T> const, Exec> const&,
                Matrix<compute_t<T>, Exec> const& d_logits, Matrix<compute_t<T>, Exec> const& dx, Nothing const&,
                Parameters<T, Exec> const& grads, Write write, Saved<T, Exec> const& saved,
                BackwardScratch<T, Exec> const& scratch, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    keys.compare_backward<T, Exec>(exec, parameters, saved.queries, d_logits, scratch.queries, grads, write, workers);
    detail::for_each(exec, "kokomo::BatchNormKeyScorer::scale_backward", keys.query_size(),
                     detail::ScaleQueriesBackward<C, Exec>{saved.normed, parameters.norm_weight, scratch.queries,
                                                           grads.norm_weight, grads.norm_bias, write});
    detail::for_each(
        exec, "kokomo::BatchNormKeyScorer::backward", keys.query_size(),
        detail::ColumnMomentsBackward<T, Exec>{
            {token_mask, offset_t(x.extent(0)), inputs.mode}, saved.inverse, saved.normed, scratch.queries});
    keys.project_backward<T, Exec>(exec, parameters, x, scratch.queries, dx, grads, write, workers);
  }
};

} // namespace kokomo::inline v0

#endif
