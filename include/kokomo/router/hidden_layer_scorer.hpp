// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_HIDDEN_LAYER_SCORER_HPP
#define KOKOMO_ROUTER_HIDDEN_LAYER_SCORER_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/linear.hpp>
#include <kokomo/error.hpp>
#include <kokomo/experts/activation.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class C, class Act> struct ActivateHidden {
  C const* pre;
  C* hidden;
  Act act;

  KOKKOS_FUNCTION void operator()(offset_t i) const { hidden[i] = act.value(pre[i]); }
};

/// d <- d act'(pre)
template <class C, class Act> struct ActivateHiddenBackward {
  C const* pre;
  C* d;
  Act act;

  KOKKOS_FUNCTION void operator()(offset_t i) const { d[i] *= act.slope(pre[i]); }
};

} // namespace detail

/// Logits of a perceptron with one hidden layer, in the compute type:
///
///     z = weight act(hidden_weight x + hidden_bias) + bias
///
/// Parameters: `hidden_weight` [M, router width], `weight` [columns, M]; with `.biases` `hidden_bias` [M], `bias` [columns].
/// Source: MoE++'s router (tanh, M = 8 E, no biases), Dr.LLM's (GeluTanh, M = 128, biases).
/// \throws kokomo::Error 101 unless hidden >= 1
template <class ActT = Tanh> struct HiddenLayerScorer {
  offset_t hidden = 0; ///< M >= 1
  bool biases = false;
  ActT act{};

  template <class T, class Exec> struct Parameters {
    using C = compute_t<T>;
    OwnedMatrix<C, Exec> hidden_weight, weight;
    OwnedVector<C, Exec> hidden_bias, bias;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, HiddenLayerScorer const& policy, Sizes const& sizes) {
      allocate(hidden_weight, "kokomo::HiddenLayerScorer::hidden_weight", policy.hidden, sizes.router_width);
      allocate(weight, "kokomo::HiddenLayerScorer::weight", sizes.columns, policy.hidden);
      if (!policy.biases) return;
      allocate(hidden_bias, "kokomo::HiddenLayerScorer::hidden_bias", policy.hidden);
      allocate(bias, "kokomo::HiddenLayerScorer::bias", sizes.columns);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "hidden_weight"}, hidden_weight);
      if (hidden_bias.extent(0) > 0) f(Name{prefix, "hidden_bias"}, hidden_bias);
      f(Name{prefix, "weight"}, weight);
      if (bias.extent(0) > 0) f(Name{prefix, "bias"}, bias);
    }
  };
  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> pre; ///< [tokens, M] before the activation

    Saved(detail::Arena& arena, HiddenLayerScorer const& policy, Sizes const& sizes)
        : pre(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.hidden)) {}
  };
  template <class T, class Exec> struct Scratch {
    Matrix<compute_t<T>, Exec> hidden; // [tokens, M]

    Scratch(detail::Arena& arena, HiddenLayerScorer const& policy, Sizes const& sizes)
        : hidden(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.hidden)) {}
  };
  template <class T, class Exec> struct BackwardScratch : Scratch<T, Exec> {
    using Scratch<T, Exec>::Scratch; // the hidden layer again, then its gradient
  };

  void check(Sizes const&) const {
    detail::require(hidden >= 1, 101, "HiddenLayerScorer hidden = ", hidden, ", expected >= 1");
  }

  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, columns]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& p, Matrix<T const, Exec> const& x, Nothing const&,
               Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved, Scratch<T, Exec> const& scratch,
               detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    offset_t const tokens = offset_t(x.extent(0));
    detail::linear(exec, "kokomo::HiddenLayerScorer::hidden", x.data(), tokens, offset_t(x.extent(1)),
                   constant<C>(p.hidden_weight), constant<C>(p.hidden_bias), hidden, saved.pre.data(), Write::overwrite,
                   workers);
    activate(exec, saved, scratch.hidden.data());
    detail::linear(exec, "kokomo::HiddenLayerScorer::logits", constant<C>(scratch.hidden), tokens, hidden,
                   constant<C>(p.weight), constant<C>(p.bias), offset_t(logits.extent(1)), logits.data(),
                   Write::overwrite, workers);
  }

  /// \param[in] d_logits [tokens, columns]
  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& p, Matrix<T const, Exec> const& x, Nothing const&,
                Matrix<compute_t<T> const, Exec> const&, Matrix<compute_t<T>, Exec> const& d_logits,
                Matrix<compute_t<T>, Exec> const& dx, Nothing const&, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    offset_t const tokens = offset_t(x.extent(0)), width = offset_t(x.extent(1)),
                   columns = offset_t(d_logits.extent(1));
    C* const d = scratch.hidden.data();
    activate(exec, saved, d);
    weight_gradient(exec, d_logits.data(), tokens, columns, static_cast<C const*>(d), hidden, grads.weight, grads.bias,
                    write, workers);
    detail::linear_input_gradient(exec, "kokomo::HiddenLayerScorer::d_hidden", constant<C>(d_logits), tokens, hidden,
                                  constant<C>(p.weight), columns, d, Write::overwrite, workers);
    detail::for_each(exec, "kokomo::HiddenLayerScorer::backward", tokens * hidden,
                     detail::ActivateHiddenBackward<C, ActT>{saved.pre.data(), d, act});
    weight_gradient(exec, d, tokens, hidden, x.data(), width, grads.hidden_weight, grads.hidden_bias, write, workers);
    detail::linear_input_gradient(exec, "kokomo::HiddenLayerScorer::dx", static_cast<C const*>(d), tokens, width,
                                  constant<C>(p.hidden_weight), hidden, dx.data(), Write::add, workers);
  }

private:
  template <class C, class V> static C const* constant(V const& view) { return view.data(); }
  template <class Exec, class S, class C> void activate(Exec const& exec, S const& saved, C* to) const {
    detail::for_each(exec, "kokomo::HiddenLayerScorer::activate", offset_t(saved.pre.size()),
                     detail::ActivateHidden<C, ActT>{saved.pre.data(), to, act});
  }
  template <class Exec, class C, class X, class Weight, class Bias>
  static void weight_gradient(Exec const& exec, C* dy, offset_t tokens, offset_t out, X const* x, offset_t in,
                              Weight const& weight, Bias const& bias, Write write,
                              detail::WorkerScratch const& workers) {
    detail::linear_weight_gradient(exec, "kokomo::HiddenLayerScorer::weight_gradient", static_cast<C const*>(dy),
                                   tokens, out, x, in, weight.data(), write, workers);
    if (bias.extent(0) > 0)
      detail::linear_bias_gradient(exec, "kokomo::HiddenLayerScorer::bias_gradient", static_cast<C const*>(dy), tokens,
                                   out, bias.data(), write);
  }
};

} // namespace kokomo::inline v0

#endif
