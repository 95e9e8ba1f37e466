// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_INPUT_JITTER_HPP
#define KOKOMO_ROUTER_INPUT_JITTER_HPP

#include <kokomo/adjust/logit_jitter.hpp>
#include <kokomo/check.hpp>
#include <kokomo/router/linear_scorer.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class X, class Exec> struct JitterInput {
  using C = compute_t<T>;
  Matrix<T const, Exec> x;
  Matrix<X, Exec> out;
  C epsilon;
  std::uint64_t seed, step;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const width = static_cast<offset_t>(x.extent(1));
    offset_t const token = i / width;
    auto const column = static_cast<index_t>(i % width);
    out(token, column) = static_cast<X>(C(x(token, column)) * jitter_factor(epsilon, seed, step, token, column));
  }
};

template <class C, class Exec> struct JitterInputBackward {
  Matrix<C const, Exec> d_jittered;
  Matrix<C, Exec> dx;
  C epsilon;
  std::uint64_t seed, step;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const width = static_cast<offset_t>(dx.extent(1));
    offset_t const token = i / width;
    auto const column = static_cast<index_t>(i % width);
    dx(token, column) += d_jittered(token, column) * jitter_factor(epsilon, seed, step, token, column);
  }
};

/// A scorer that reads the compute type gets the jittered input unrounded.
template <class Scorer, class T, class Exec>
concept ReadsCompute = requires(Scorer const& p, Exec const& exec, parameters_t<Scorer, T, Exec> const& w,
                                Matrix<compute_t<T> const, Exec> const& x, inputs_t<Scorer, T, Exec> const& in,
                                Matrix<compute_t<T>, Exec> const& logits, saved_t<Scorer, T, Exec> const& saved,
                                scratch_t<Scorer, T, Exec> const& scratch, WorkerScratch const& workers) {
  p.template forward<T>(exec, w, x, in, logits, saved, scratch, workers);
};

template <class Base> struct WithCallInfo : Base, CallInfo {};
template <class Base>
using with_call_info_t =
    std::conditional_t<std::is_same_v<Base, Nothing>, CallInfo,
                       std::conditional_t<std::is_base_of_v<CallInfo, Base>, Base, WithCallInfo<Base>>>;

} // namespace detail

/// A scorer whose input is multiplied, in training, by U(1 - epsilon, 1 + epsilon), element by element; the experts see
/// the input as it is. Draws are keyed by seed, step, token and column. In inference nothing happens.
/// Source: Switch Transformer as mesh-tensorflow has it (epsilon 1e-2, router in float32).
/// \throws kokomo::Error 106 unless 0 <= epsilon < 1
template <class Scorer = LinearScorer> struct InputJitter {
  Scorer inner{};
  float epsilon = 1e-2f;
  std::uint64_t seed = 0;

  static constexpr bool causal = detail::is_causal<Scorer>();
  bool causal_in(Mode mode) const { return detail::is_causal_in(inner, mode); }

  template <class T, class Exec> using Parameters = detail::OfInner<parameters_t<Scorer, T, Exec>>;
  template <class T, class Exec> using Inputs = detail::with_call_info_t<inputs_t<Scorer, T, Exec>>;
  template <class T, class Exec> using InputGradients = detail::input_gradients_t<Scorer, T, Exec>;
  template <class T, class Exec> using Scratch = detail::OfInner<scratch_t<Scorer, T, Exec>>;
  /// What the inner scorer reads: the compute type where it can.
  template <class T, class Exec>
  using Element = std::conditional_t<detail::ReadsCompute<Scorer, T, Exec>, compute_t<T>, T>;

  template <class T, class Exec> struct Saved {
    Matrix<Element<T, Exec>, Exec> input; ///< [tokens, router width] as the inner scorer read it
    saved_t<Scorer, T, Exec> inner;

    Saved(detail::Arena& arena, InputJitter const& policy, Sizes const& sizes)
        : input(arena.matrix<Element<T, Exec>, Exec>(sizes.tokens, sizes.router_width)),
          inner(detail::make<saved_t<Scorer, T, Exec>>(arena, policy.inner, sizes)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Matrix<compute_t<T>, Exec> d_input; ///< [tokens, router width]
    backward_scratch_t<Scorer, T, Exec> inner;

    BackwardScratch(detail::Arena& arena, InputJitter const& policy, Sizes const& sizes)
        : d_input(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.router_width)),
          inner(detail::make<backward_scratch_t<Scorer, T, Exec>>(arena, policy.inner, sizes)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(epsilon >= 0 && epsilon < 1, 106, "InputJitter epsilon = ", epsilon, ", expected 0 <= epsilon < 1");
    detail::check_settings(inner, sizes);
  }
  index_t columns(Sizes const& sizes) const requires(detail::CountsColumns<Scorer>) { return inner.columns(sizes); }
  template <class T, class Exec>
  void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const
      requires(detail::ChecksInputs<Scorer, T, Exec>) {
    inner.template check_inputs<T, Exec>(inputs, sizes);
  }
  template <class T, class Exec>
  void check_input_gradients(InputGradients<T, Exec> const& d_inputs, Sizes const& sizes) const
      requires(detail::ChecksInputGradients<Scorer, T, Exec>) {
    inner.template check_input_gradients<T, Exec>(d_inputs, sizes);
  }

  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
               Inputs<T, Exec> const& inputs, Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch, detail::WorkerScratch const& workers) const {
    static_assert(!detail::keeps_state_v<Scorer, T, Exec>, "kokomo::InputJitter: its scorer may not keep a state");
    using C = compute_t<T>;
    using X = Element<T, Exec>;
    // in inference the draws are left out, the conversion is not: the inner scorer exists once
    C const amount = inputs.mode == Mode::training ? C(epsilon) : C(0);
    detail::for_each(exec, "kokomo::InputJitter::forward", offset_t(x.size()),
                     detail::JitterInput<T, X, Exec>{x, saved.input, amount, seed, inputs.step});
    inner.template forward<T>(exec, parameters, Matrix<X const, Exec>(saved.input), inner_inputs<T, Exec>(inputs),
                              logits, saved.inner, scratch, workers);
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const&,
                Inputs<T, Exec> const& inputs, Matrix<compute_t<T> const, Exec> const& logits,
                Matrix<compute_t<T>, Exec> const& d_logits, Matrix<compute_t<T>, Exec> const& dx,
                InputGradients<T, Exec> const& d_inputs, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    C const amount = inputs.mode == Mode::training ? C(epsilon) : C(0);
    detail::fill(exec, "kokomo::InputJitter::reset", scratch.d_input.data(), offset_t(scratch.d_input.size()), 0);
    inner.template backward<T>(exec, parameters, Matrix<Element<T, Exec> const, Exec>(saved.input),
                               inner_inputs<T, Exec>(inputs), logits, d_logits, scratch.d_input, d_inputs, grads, write,
                               saved.inner, scratch.inner, workers);
    detail::for_each(exec, "kokomo::InputJitter::backward", offset_t(dx.size()),
                     detail::JitterInputBackward<C, Exec>{scratch.d_input, dx, amount, seed, inputs.step});
  }

private:
  template <class T, class Exec> static inputs_t<Scorer, T, Exec> inner_inputs(Inputs<T, Exec> const& inputs) {
    if constexpr (std::is_same_v<inputs_t<Scorer, T, Exec>, Nothing>)
      return {};
    else
      return inputs;
  }
};

} // namespace kokomo::inline v0

#endif
