// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_GATE_SPLIT_GATE_HPP
#define KOKOMO_GATE_SPLIT_GATE_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// The sum of the scores of one split, and epsilon.
template <class C> struct SplitSum {
  index_t skills;
  C epsilon;

  KOKKOS_FUNCTION C operator()(C const* z, index_t split) const {
    C sum = epsilon;
    for (index_t e = split * skills; e < (split + 1) * skills; ++e) sum += SigmoidScore::of(z[e]);
    return sum;
  }
};

template <class T, class Exec> struct WeighInSplits {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  SplitSum<C> sum;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const* const z = routing.row(token);
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      index_t const e = a.expert[i];
      a.weight[i] = e != none ? SigmoidScore::of(z[e]) / sum(z, e / sum.skills) : C(0);
    }
  }
};

/// ds = (d_e - sum over the split of d w) / sum, in place of the gradients of the weights.
template <class T, class Exec> struct WeighInSplitsBackward {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  SplitSum<C> sum;
  Vector<C const, Exec> d_weight;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const* const z = routing.row(token);
    C* const d = &d_logits(token, 0);
    for (index_t e = 0; e < routing.sizes.columns; ++e) d[e] = 0;
    if (a.token_offsets[token] == a.token_offsets[token + 1]) return;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      if (a.expert[i] != none) d[a.expert[i]] += d_weight[i];
    for (index_t split = 0; split < routing.sizes.experts / sum.skills; ++split) {
      C const total = sum(z, split);
      C along = 0;
      for (index_t e = split * sum.skills; e < (split + 1) * sum.skills; ++e)
        along += d[e] * SigmoidScore::of(z[e]) / total;
      for (index_t e = split * sum.skills; e < (split + 1) * sum.skills; ++e)
        d[e] = (d[e] - along) / total * SigmoidScore::slope(z[e], SigmoidScore::of(z[e]));
    }
  }
};

} // namespace detail

/// Weights of experts in splits, each normalised within its own:
///
///     w_e = sigmoid(z_e) / (sum over the experts of e's split of sigmoid(z) + epsilon)
///
/// for MergedAdapters, where expert s K + k is skill k of split s. The sum is over all experts of the split, chosen or not.
/// Source: multi-head routing, microsoft/mttl (docs/policies/gate/split_gate.md).
/// \throws kokomo::Error 103 unless splits divide the experts, 106 unless epsilon > 0
struct SplitGate {
  using Score = SigmoidScore;

  index_t splits = 1;     ///< S >= 1
  float epsilon = 1e-12f; ///< > 0

  void check(Sizes const& sizes) const {
    detail::require(splits >= 1 && sizes.experts % splits == 0, 103, "SplitGate splits = ", splits,
                    ", expected a divisor of ", sizes.experts, " experts");
    detail::require(epsilon > 0, 106, "SplitGate epsilon = ", epsilon, ", expected > 0");
  }

  template <class T, class Exec>
  void forward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&,
               Assignment<T, Exec> const& a) const {
    detail::for_each(exec, "kokomo::SplitGate::forward", a.tokens,
                     detail::WeighInSplits<T, Exec>{routing, a, sum(routing)});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                Vector<compute_t<T> const, Exec> const& d_weight, Matrix<compute_t<T>, Exec> const& d_logits,
                Nothing const&, Write, Nothing const&) const {
    detail::for_each(exec, "kokomo::SplitGate::backward", a.tokens,
                     detail::WeighInSplitsBackward<T, Exec>{routing, a, sum(routing), d_weight, d_logits});
  }

private:
  template <class R> detail::SplitSum<typename R::compute_type> sum(R const& routing) const {
    using C = typename R::compute_type;
    return {routing.sizes.experts / splits, C(epsilon)};
  }
};

} // namespace kokomo::inline v0

#endif
