// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_GATE_JOINT_HPP
#define KOKOMO_GATE_JOINT_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Calls f(score, place) for the chosen routed experts of a token and then for every shared expert.
template <class Score, class T, class Exec, class F>
KOKKOS_FUNCTION void for_each_joint(Routing<T, Exec> const& routing, Assignment<T, Exec> const& a, offset_t token,
                                    F const& f) {
  auto const* z = routing.row(token);
  for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
    if (a.expert[i] != none) f(Score::of(z[a.expert[i]]), a.expert[i], i, none);
  for (index_t j = 0; j < routing.sizes.shared; ++j)
    f(Score::of(z[routing.sizes.experts + j]), routing.sizes.experts + j, offset_t(none), j);
}

template <class T, class Exec> struct JointWeigh {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  C scale;
  C const* global_scale;
  Matrix<C, Exec> shared_weight;
  bool round_weights;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C sum = 0;
    for_each_joint<SigmoidScore>(routing, a, token, [&](C s, index_t, offset_t, index_t) { sum += s; });
    C const factor = sum > C(0) ? scale * global_scale[0] / sum : C(0);
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) a.weight[i] = 0;
    for_each_joint<SigmoidScore>(routing, a, token, [&](C s, index_t, offset_t i, index_t j) {
      C const weight = round_weights ? rounded_to<T>(s * factor) : s * factor;
      if (j == none)
        a.weight[i] = weight;
      else
        shared_weight(token, j) = weight;
    });
  }
};

template <class T, class Exec> struct JointGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  C scale;
  C const* global_scale;
  Vector<C const, Exec> d_weight;
  Matrix<C const, Exec> d_shared_weight;
  Matrix<C, Exec> d_logits;
  Vector<C, Exec> d_global; // [tokens]

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (index_t e = 0; e < routing.sizes.columns; ++e) d_logits(token, e) = 0;
    C sum = 0, along = 0; // along = sum_i dw_i s_i
    for_each_joint<SigmoidScore>(routing, a, token, [&](C s, index_t, offset_t i, index_t j) {
      sum += s;
      along += gradient(token, i, j) * s;
    });
    C const inverse = sum > C(0) ? C(1) / sum : C(0);
    d_global[token] = scale * along * inverse;
    C const factor = scale * global_scale[0] * inverse;
    for_each_joint<SigmoidScore>(routing, a, token, [&](C s, index_t column, offset_t i, index_t j) {
      d_logits(token, column) += factor * (gradient(token, i, j) - along * inverse) * SigmoidScore::slope(C(0), s);
    });
  }
  KOKKOS_FUNCTION C gradient(offset_t token, offset_t i, index_t j) const {
    return j == none ? d_weight[i] : d_shared_weight(token, j);
  }
};

template <class C> struct SumInOrder {
  C const* values;
  offset_t count;
  C* out;
  Write write;
  KOKKOS_FUNCTION void operator()(offset_t) const {
    C sum = 0;
    for (offset_t i = 0; i < count; ++i) sum += values[i];
    out[0] = write == Write::add ? out[0] + sum : sum;
  }
};

} // namespace detail

/// Routed and shared experts share one budget: the router scores both, and over the chosen routed experts S and all
/// shared experts together
///
///     w_i = scale * global_scale * sigmoid(z_i) / sum over S and shared of sigmoid(z_j).
///
/// Its logits are [tokens, experts + shared]; use WithShared with JointShare, which takes its weights from this gate.
/// Source: transformers inkling (`joint_with_shared`), there through log-sigmoid and logsumexp in float32.
struct JointSigmoidGate {
  using Score = SigmoidScore;
  static constexpr bool weighs_shared = true;

  float scale = 1;
  bool round_weights = false; ///< weights rounded to the storage type

  template <class T, class Exec> struct Parameters {
    OwnedVector<compute_t<T>, Exec> global_scale; ///< [1]

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, JointSigmoidGate const&, Sizes const&) {
      allocate(global_scale, "kokomo::JointSigmoidGate::global_scale", 1);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "global_scale"}, global_scale);
    }
  };
  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> shared_weight; ///< [tokens, shared]

    Saved(detail::Arena& arena, JointSigmoidGate const&, Sizes const& sizes)
        : shared_weight(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.shared)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Vector<compute_t<T>, Exec> d_global; // [tokens]

    BackwardScratch(detail::Arena& arena, JointSigmoidGate const&, Sizes const& sizes)
        : d_global(arena.vector<compute_t<T>, Exec>(sizes.tokens)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(sizes.shared >= 1, 107,
                    "JointSigmoidGate weighs shared experts, but the layer has none: use WithShared<..., JointShare>");
  }

  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Routing<T, Exec> const& routing, Nothing const&,
               Assignment<T, Exec> const& a, Saved<T, Exec> const& saved) const {
    detail::for_each(exec, "kokomo::JointSigmoidGate::forward", a.tokens,
                     detail::JointWeigh<T, Exec>{routing, a, compute_t<T>(scale), parameters.global_scale.data(),
                                                 saved.shared_weight, round_weights});
  }

  /// \param d_shared_weight [tokens, shared] what the shared experts' outputs send back
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Routing<T, Exec> const& routing,
                Assignment<T, Exec> const& a, Vector<compute_t<T> const, Exec> const& d_weight,
                Matrix<compute_t<T> const, Exec> const& d_shared_weight, Matrix<compute_t<T>, Exec> const& d_logits,
                Parameters<T, Exec> const& grads, Write write, BackwardScratch<T, Exec> const& scratch) const {
    detail::for_each(exec, "kokomo::JointSigmoidGate::backward", a.tokens,
                     detail::JointGradient<T, Exec>{routing, a, compute_t<T>(scale), parameters.global_scale.data(),
                                                    d_weight, d_shared_weight, d_logits, scratch.d_global});
    detail::for_each(
        exec, "kokomo::JointSigmoidGate::backward_scale", 1,
        detail::SumInOrder<compute_t<T>>{scratch.d_global.data(), a.tokens, grads.global_scale.data(), write});
  }
};

} // namespace kokomo::inline v0

#endif
