// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_FOCAL_LOSS_HPP
#define KOKOMO_BALANCER_FOCAL_LOSS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

#include <cmath>
#include <span>
#include <vector>

namespace kokomo::inline v0 {

/// Weights of classes by how many examples n each has: 1 / effective number, (1 - beta) / (1 - beta^n), scaled so that they
/// sum to the number of classes.
/// \throws kokomo::Error 106 for a class without examples, or unless 0 <= beta < 1
inline std::vector<double> class_balanced_weights(std::span<double const> counts, double beta = 0.999) {
  detail::require(beta >= 0 && beta < 1, 106, "class_balanced_weights beta = ", beta, ", expected 0 <= beta < 1");
  std::vector<double> weights;
  double sum = 0;
  for (double const n : counts) {
    detail::require(n > 0, 106, "class_balanced_weights of a class of ", n, " examples, expected more than 0");
    sum += weights.emplace_back((1 - beta) / (1 - std::pow(beta, n)));
  }
  for (double& weight : weights) weight *= static_cast<double>(counts.size()) / sum;
  return weights;
}

namespace detail {

/// One token's loss and its slope with respect to the logit of its label, over 1 - p: dz_e = slope (delta_e - p_e).
template <class T, class Exec> struct FocalTerm {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Vector<index_t const, Exec> labels;
  Vector<double const, Exec> weights; // null: one
  C gamma;
  Vector<C, Exec> term, slope; // [tokens]; a negative term: no label

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    index_t const label = labels[token], n = routing.sizes.experts;
    term[token] = -1, slope[token] = 0;
    if (routing.masked(token) || label < 0 || label >= n) return;
    C const* const z = routing.row(token);
    auto const row = SoftmaxScore::row(z, n);
    C const p = SoftmaxScore::value(row, z[label]);
    C const log_p = z[label] - row.max + Kokkos::log(row.inverse_sum);
    C const weight = weights.data() != nullptr ? C(weights[label]) : C(1);
    C const rest = p < C(1) ? C(1) - p : C(0), easy = Kokkos::pow(rest, gamma);
    C const through = gamma > C(0) ? gamma * Kokkos::pow(rest, gamma - C(1)) * p * log_p : C(0);
    term[token] = Kokkos::max(-weight * easy * log_p, C(0));
    slope[token] = weight * (through - easy);
  }
};

template <class C, class Exec> struct FocalMean {
  Vector<C, Exec> term, factor, loss;
  C coefficient;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    C sum = 0;
    offset_t count = 0;
    for (std::size_t t = 0; t < term.extent(0); ++t)
      if (!(term[t] < C(0))) sum += term[t], ++count;
    factor[0] = count > 0 ? coefficient / C(count) : C(0);
    loss[0] += factor[0] * sum;
  }
};

template <class T, class Exec> struct FocalGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Vector<index_t const, Exec> labels;
  Vector<C, Exec> slope, factor;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const scale = factor[0] * slope[token];
    if (scale == C(0)) return; // also: no label
    C const* const z = routing.row(token);
    auto const row = SoftmaxScore::row(z, routing.sizes.experts);
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      d_logits(token, e) += scale * ((e == labels[token] ? C(1) : C(0)) - SoftmaxScore::value(row, z[e]));
  }
};

} // namespace detail

/// Teaches a router by labels, with little weight on what it knows already:
///
///     loss = coefficient * mean over labelled tokens of -weight_y (1 - p_y)^gamma log p_y,   p = softmax(z), y the label
///
/// `labels` [tokens or more] are expert ids, -1 (none) for tokens without; a sequence whose tokens share their logits needs
/// one label. `weights` [experts], not allocated: one each; class_balanced_weights makes some. Both are the caller's, read by
/// forward and backward. Masked tokens have no label. Source: Dr.LLM (docs/policies/balancer/focal_loss.md).
/// \throws kokomo::Error 106 unless coefficient >= 0 and gamma is 0 or at least 1, 107 for Views of other lengths
template <class Exec = Kokkos::DefaultExecutionSpace> struct FocalLoss {
  float coefficient = 1; ///< >= 0
  float gamma = 2;       ///< 0, or >= 1
  OwnedVector<index_t, Exec> labels{};
  OwnedVector<double, Exec> weights{};

  template <class T, class E> struct Saved {
    Vector<compute_t<T>, E> term, slope; ///< [tokens]
    Vector<compute_t<T>, E> factor;      ///< [1]

    Saved(detail::Arena& arena, FocalLoss const&, Sizes const& sizes)
        : term(arena.vector<compute_t<T>, E>(sizes.tokens)), slope(arena.vector<compute_t<T>, E>(sizes.tokens)),
          factor(arena.vector<compute_t<T>, E>(1)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(coefficient >= 0 && (gamma == 0 || gamma >= 1), 106, "FocalLoss coefficient = ", coefficient,
                    ", gamma = ", gamma, ", expected >= 0, and 0 or >= 1");
    detail::require(offset_t(labels.extent(0)) >= sizes.tokens, 107, "FocalLoss labels has ", labels.extent(0),
                    " elements, expected one for each of ", sizes.tokens, " tokens");
    auto const given = offset_t(weights.extent(0));
    detail::require(given == 0 || given == sizes.experts, 107, "FocalLoss weights has ", given,
                    " elements, expected one for each of ", sizes.experts, " experts");
  }

  template <class T, class State>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    Vector<double const, Exec> given;
    if (weights.extent(0) > 0) given = weights;
    detail::for_each(exec, "kokomo::FocalLoss::term", routing.sizes.tokens,
                     detail::FocalTerm<T, Exec>{routing, labels, given, C(gamma), saved.term, saved.slope});
    detail::for_each(exec, "kokomo::FocalLoss::mean", 1,
                     detail::FocalMean<C, Exec>{saved.term, saved.factor, loss, C(coefficient)});
  }

  template <class T>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    detail::for_each(exec, "kokomo::FocalLoss::backward", routing.sizes.tokens,
                     detail::FocalGradient<T, Exec>{routing, labels, saved.slope, saved.factor, d_logits});
  }
};

} // namespace kokomo::inline v0

#endif
