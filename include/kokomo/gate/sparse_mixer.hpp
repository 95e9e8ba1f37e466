// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_GATE_SPARSE_MIXER_HPP
#define KOKOMO_GATE_SPARSE_MIXER_HPP

#include <kokomo/argument.hpp>
#include <kokomo/router/sparse_mixer.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct SparseMixerWeigh {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  C epsilon;
  std::uint64_t seed;
  Matrix<C const, Exec> factors; // null: drawn
  bool round_weights;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    offset_t const first = a.token_offsets[token];
    index_t removed = none;
    for (int j = 0; j < 2; ++j) {
      index_t const chosen = a.expert[first + j];
      C weight = 0;
      if (chosen != none) {
        SparseMixerPick<C> const pick(routing.row(token), routing.sizes.experts, removed, epsilon);
        weight = Kokkos::exp(pick.z[chosen] - pick.max) / pick.normaliser();
        if (routing.mode == Mode::training) weight *= factor(token, j, chosen == pick.argmax);
      }
      a.weight[first + j] = round_weights ? rounded_to<T>(weight) : weight;
      removed = chosen;
    }
  }

  KOKKOS_FUNCTION C factor(offset_t token, int j, bool is_argmax) const {
    if (factors.data() != nullptr) return factors(token, j);
    bool const whole = is_argmax || uniform(seed, routing.step, token, -1 - j) > 0.75;
    return whole ? C(1) : C(0.3333); // as published, not 1/3
  }
};

template <class T, class Exec> struct SparseMixerGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  C epsilon;
  Vector<C const, Exec> d_weight;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    index_t const n = routing.sizes.experts;
    for (index_t e = 0; e < routing.sizes.columns; ++e) d_logits(token, e) = 0;
    offset_t const first = a.token_offsets[token];
    index_t removed = none;
    for (int j = 0; j < 2; ++j) {
      index_t const chosen = a.expert[first + j];
      if (chosen != none) {
        SparseMixerPick<C> const pick(routing.row(token), n, removed, epsilon);
        C const inverse = C(1) / pick.normaliser();
        C const multiplier = Kokkos::exp(pick.z[chosen] - pick.max) * inverse;
        C const g = d_weight[first + j] * multiplier;
        for (index_t e = 0; e < n; ++e)
          if (pick.sees(e)) d_logits(token, e) -= g * Kokkos::exp(pick.z[e] - pick.max) * inverse;
        d_logits(token, chosen) += g;
      }
      removed = chosen;
    }
  }
};

} // namespace detail

/// Weight of each of SparseMixer's two picks: its entry in the softmax over the experts close to the best one of those
/// that this pick could choose from,
///
///     sees_e = (m - z_e) / max(|z_e|, m) <= 2 epsilon,     w = exp(z_chosen) / sum over seen e of exp(z_e).
///
/// The second pick does not see the first expert, so w1 + w2 may reach 2: they are not normalised together. In training
/// the weight is multiplied by 1 (argmax, or a uniform draw above 3/4) or 0.3333, and the gradient is SparseMixer's
/// estimator, not the derivative: dz = g w (onehot - softmax), which leaves that factor out.
/// Source: Phi-3.5-MoE, transformers phimoe `sparsemixer`.
struct SparseMixerGate {
  using Score = IdentityScore;

  float epsilon = 0.01f; ///< >= 0, the selector's
  std::uint64_t seed = 0;
  bool round_weights = false; ///< weights rounded to the storage type

  template <class T, class Exec> struct Inputs {
    MatrixArgument<compute_t<T> const, Exec> factors{}; ///< [tokens, 2] training factors drawn elsewhere; optional

    template <class F> void for_each(F&& f) const { f(Name{"", "factors"}, factors); }
  };

  void check(Sizes const& sizes) const {
    detail::require(sizes.per_token == 2, 102, "SparseMixerGate weighs two picks a token, but the selector has ",
                    sizes.per_token, " (use SparseMixer)");
    detail::require(epsilon >= 0, 106, "SparseMixerGate epsilon = ", epsilon, ", expected >= 0");
  }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    if (inputs.factors.given()) (void)inputs.factors.checked("inputs.gate.factors", {sizes.tokens, 2});
  }

  template <class T, class Exec>
  void forward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Inputs<T, Exec> const& inputs,
               Assignment<T, Exec> const& a) const {
    Matrix<compute_t<T> const, Exec> factors;
    if (inputs.factors.given()) factors = inputs.factors.checked("inputs.gate.factors", {a.tokens, 2});
    detail::for_each(
        exec, "kokomo::SparseMixerGate::forward", a.tokens,
        detail::SparseMixerWeigh<T, Exec>{routing, a, compute_t<T>(epsilon), seed, factors, round_weights});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                Vector<compute_t<T> const, Exec> const& d_weight, Matrix<compute_t<T>, Exec> const& d_logits,
                Nothing const&, Write, Nothing const&) const {
    detail::for_each(exec, "kokomo::SparseMixerGate::backward", a.tokens,
                     detail::SparseMixerGradient<T, Exec>{routing, a, compute_t<T>(epsilon), d_weight, d_logits});
  }
};

} // namespace kokomo::inline v0

#endif
