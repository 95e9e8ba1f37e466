// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_MLP_SCORER_HPP
#define KOKOMO_ROUTER_MLP_SCORER_HPP

#include <kokomo/argument.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/linear.hpp>
#include <kokomo/detail/rms_norm.hpp>
#include <kokomo/error.hpp>
#include <kokomo/experts/activation.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// states += scale * previous
template <class C> struct AddPreviousStates {
  C const* previous;
  C const* scale;
  C* states;
  offset_t width;

  KOKKOS_FUNCTION void operator()(offset_t i) const { states[i] += scale[i % width] * previous[i]; }
};

/// d_previous = scale * d_states
template <class C> struct PreviousStatesGradient {
  C const* d_states;
  C const* scale;
  C* d_previous;
  offset_t width;

  KOKKOS_FUNCTION void operator()(offset_t i) const { d_previous[i] = scale[i % width] * d_states[i]; }
};

/// d_scale (=|+=) the sum over tokens of d_states * previous
template <class C> struct StatesScaleGradient {
  C const* d_states;
  C const* previous;
  C* grad;
  offset_t tokens, width;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t column) const {
    C sum = 0;
    for (offset_t i = column; i < tokens * width; i += width) sum += d_states[i] * previous[i];
    grad[column] = write == Write::add ? grad[column] + sum : sum;
  }
};

template <class C> struct GeluForward {
  C const* pre;
  C* hidden;

  KOKKOS_FUNCTION void operator()(offset_t i) const { hidden[i] = Gelu{}.value(pre[i]); }
};

/// d <- d gelu'(pre)
template <class C> struct GeluBackward {
  C const* pre;
  C* d;

  KOKKOS_FUNCTION void operator()(offset_t i) const { d[i] *= Gelu{}.slope(pre[i]); }
};

} // namespace detail

/// Logits from a small MLP whose input, the router's state, is handed from layer to layer:
///
///     h = down x + down_bias (+ states_scale * previous_states)
///     z = classifier gelu(fc2 gelu(fc1 rms_norm(h) + fc1_bias) + fc2_bias),       gelu in its erf form
///
/// forward leaves h in the tape, `Saved::states`, for `Inputs::previous_states` of the layer above. Its gradient travels
/// the other way: `InputGradients::previous_states` of the layer above is `Inputs::d_states` of this one in backward.
/// Weights, products and states are of the compute type. Source: transformers zaya.
/// \throws kokomo::Error 101 unless state_size >= 1, 106 for a negative epsilon
struct MlpScorer {
  offset_t state_size = 0;      ///< R >= 1, columns of the states and of both hidden layers
  bool previous_states = false; ///< read the states of the layer below
  float epsilon = 1e-5f;        ///< of the norm, >= 0

  template <class T, class Exec> struct Parameters {
    using C = compute_t<T>;
    OwnedMatrix<C, Exec> down;         ///< [R, router width]
    OwnedVector<C, Exec> down_bias;    ///< [R]
    OwnedVector<C, Exec> states_scale; ///< [R] if `.previous_states`
    OwnedVector<C, Exec> norm;         ///< [R]
    OwnedMatrix<C, Exec> fc1;          ///< [R, R]
    OwnedVector<C, Exec> fc1_bias;     ///< [R]
    OwnedMatrix<C, Exec> fc2;          ///< [R, R]
    OwnedVector<C, Exec> fc2_bias;     ///< [R]
    OwnedMatrix<C, Exec> classifier;   ///< [logit columns, R]

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, MlpScorer const& policy, Sizes const& sizes) {
      offset_t const r = policy.state_size;
      allocate(down, "kokomo::MlpScorer::down", r, sizes.router_width);
      allocate(down_bias, "kokomo::MlpScorer::down_bias", r);
      if (policy.previous_states) allocate(states_scale, "kokomo::MlpScorer::states_scale", r);
      allocate(norm, "kokomo::MlpScorer::norm", r);
      allocate(fc1, "kokomo::MlpScorer::fc1", r, r);
      allocate(fc1_bias, "kokomo::MlpScorer::fc1_bias", r);
      allocate(fc2, "kokomo::MlpScorer::fc2", r, r);
      allocate(fc2_bias, "kokomo::MlpScorer::fc2_bias", r);
      allocate(classifier, "kokomo::MlpScorer::classifier", sizes.columns, r);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "down"}, down);
      f(Name{prefix, "down_bias"}, down_bias);
      if (states_scale.extent(0) > 0) f(Name{prefix, "states_scale"}, states_scale);
      f(Name{prefix, "norm"}, norm);
      f(Name{prefix, "fc1"}, fc1);
      f(Name{prefix, "fc1_bias"}, fc1_bias);
      f(Name{prefix, "fc2"}, fc2);
      f(Name{prefix, "fc2_bias"}, fc2_bias);
      f(Name{prefix, "classifier"}, classifier);
    }
  };
  template <class T, class Exec> struct Inputs {
    MatrixArgument<compute_t<T> const, Exec>
        previous_states{};                               ///< [tokens, R], given if and only if `.previous_states`
    MatrixArgument<compute_t<T> const, Exec> d_states{}; ///< [tokens, R], backward only; not given: zero

    template <class F> void for_each(F&& f) const {
      f(Name{"", "previous_states"}, previous_states);
      f(Name{"", "d_states"}, d_states);
    }
  };
  template <class T, class Exec> struct InputGradients {
    MatrixArgument<compute_t<T>, Exec> previous_states{}; ///< [tokens, R], overwritten; not given: not computed

    template <class F> void for_each(F&& f) const { f(Name{"", "previous_states"}, previous_states); }
  };
  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> states;    ///< [tokens, R] h
    Matrix<compute_t<T>, Exec> fc1_input; ///< [tokens, R] rms_norm(h)
    Matrix<compute_t<T>, Exec> fc1_out;   ///< [tokens, R] before its gelu
    Matrix<compute_t<T>, Exec> fc2_out;   ///< [tokens, R] before its gelu

    Saved(detail::Arena& arena, MlpScorer const& policy, Sizes const& sizes)
        : states(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.state_size)),
          fc1_input(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.state_size)),
          fc1_out(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.state_size)),
          fc2_out(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.state_size)) {}
  };
  template <class T, class Exec> struct Scratch {
    Matrix<compute_t<T>, Exec> hidden; // [tokens, R]

    Scratch(detail::Arena& arena, MlpScorer const& policy, Sizes const& sizes)
        : hidden(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.state_size)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Matrix<compute_t<T>, Exec> hidden, d_out, d_in; // [tokens, R]
    Vector<compute_t<T>, Exec> inverse;             // [tokens]

    BackwardScratch(detail::Arena& arena, MlpScorer const& policy, Sizes const& sizes)
        : hidden(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.state_size)),
          d_out(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.state_size)),
          d_in(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.state_size)),
          inverse(arena.vector<compute_t<T>, Exec>(sizes.tokens)) {}
  };

  void check(Sizes const&) const {
    detail::require(state_size >= 1, 101, "MlpScorer state_size = ", state_size, ", expected >= 1");
    detail::require(epsilon >= 0, 106, "MlpScorer epsilon = ", epsilon, ", expected >= 0");
  }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    if (previous_states)
      (void)inputs.previous_states.checked("inputs.scorer.previous_states", {sizes.tokens, state_size});
    else
      detail::require(!inputs.previous_states.given(), 203,
                      "inputs.scorer.previous_states is given, though MlpScorer::previous_states is false");
    if (inputs.d_states.given()) (void)inputs.d_states.checked("inputs.scorer.d_states", {sizes.tokens, state_size});
  }
  template <class T, class Exec>
  void check_input_gradients(InputGradients<T, Exec> const& d, Sizes const& sizes) const {
    if (!d.previous_states.given()) return;
    detail::require(previous_states, 203,
                    "d_inputs.scorer.previous_states is given, though MlpScorer::previous_states is false");
    (void)d.previous_states.checked("d_inputs.scorer.previous_states", {sizes.tokens, state_size});
  }

  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, columns]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& p, Matrix<T const, Exec> const& x,
               Inputs<T, Exec> const& inputs, Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    offset_t const tokens = offset_t(x.extent(0)), r = state_size;
    C* const hidden = scratch.hidden.data();
    auto const apply = [&](char const* label, auto const* in, offset_t width, auto const& weight, C const* bias,
                           offset_t out, C* y) {
      detail::linear(exec, label, in, tokens, width, static_cast<C const*>(weight.data()), bias, out, y,
                     Write::overwrite, workers);
    };
    apply("kokomo::MlpScorer::down", x.data(), offset_t(x.extent(1)), p.down, p.down_bias.data(), r,
          saved.states.data());
    if (previous_states)
      detail::for_each(
          exec, "kokomo::MlpScorer::previous_states", tokens * r,
          detail::AddPreviousStates<C>{previous(inputs, tokens), p.states_scale.data(), saved.states.data(), r});
    detail::rms_norm(exec, "kokomo::MlpScorer::norm", static_cast<C const*>(saved.states.data()),
                     saved.fc1_input.data(), tokens, r, norm_settings<T>(p));
    apply("kokomo::MlpScorer::fc1", saved.fc1_input.data(), r, p.fc1, p.fc1_bias.data(), r, saved.fc1_out.data());
    gelu(exec, saved.fc1_out, hidden);
    apply("kokomo::MlpScorer::fc2", hidden, r, p.fc2, p.fc2_bias.data(), r, saved.fc2_out.data());
    gelu(exec, saved.fc2_out, hidden);
    apply("kokomo::MlpScorer::classifier", hidden, r, p.classifier, nullptr, offset_t(logits.extent(1)), logits.data());
  }

  /// \param[in,out] d_logits [tokens, columns]
  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& p, Matrix<T const, Exec> const& x,
                Inputs<T, Exec> const& inputs, Matrix<compute_t<T> const, Exec> const&,
                Matrix<compute_t<T>, Exec> const& d_logits, Matrix<compute_t<T>, Exec> const& dx,
                InputGradients<T, Exec> const& d_inputs, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    offset_t const tokens = offset_t(x.extent(0)), r = state_size;
    C *const hidden = scratch.hidden.data(), *const d_out = scratch.d_out.data(), *const d_in = scratch.d_in.data();
    auto const weight_gradient = [&](C const* dy, offset_t out, auto const* in, offset_t width, auto const& grad,
                                     C* bias) {
      detail::linear_weight_gradient(exec, "kokomo::MlpScorer::weight_gradient", dy, tokens, out, in, width,
                                     grad.data(), write, workers);
      if (bias != nullptr)
        detail::linear_bias_gradient(exec, "kokomo::MlpScorer::bias_gradient", dy, tokens, out, bias, write);
    };
    auto const input_gradient = [&](C const* dy, offset_t out, auto const& weight, offset_t width, C* d, Write how) {
      detail::linear_input_gradient(exec, "kokomo::MlpScorer::input_gradient", dy, tokens, width,
                                    static_cast<C const*>(weight.data()), out, d, how, workers);
    };

    gelu(exec, saved.fc2_out, hidden);
    auto const columns = offset_t(d_logits.extent(1));
    weight_gradient(d_logits.data(), columns, hidden, r, grads.classifier, nullptr);
    input_gradient(d_logits.data(), columns, p.classifier, r, d_out, Write::overwrite);
    gelu_backward(exec, saved.fc2_out, d_out);

    gelu(exec, saved.fc1_out, hidden);
    weight_gradient(d_out, r, hidden, r, grads.fc2, grads.fc2_bias.data());
    input_gradient(d_out, r, p.fc2, r, d_in, Write::overwrite);
    gelu_backward(exec, saved.fc1_out, d_in);

    weight_gradient(d_in, r, saved.fc1_input.data(), r, grads.fc1, grads.fc1_bias.data());
    input_gradient(d_in, r, p.fc1, r, d_out, Write::overwrite);

    C* const d_states = d_in; // has been read by now; the norm adds to what the layer above asks for
    if (inputs.d_states.given())
      detail::convert(exec, "kokomo::MlpScorer::d_states",
                      inputs.d_states.checked("inputs.scorer.d_states", {tokens, r}).data(), d_states, tokens * r);
    else
      detail::fill(exec, "kokomo::MlpScorer::reset", d_states, tokens * r, 0);
    detail::rms_norm_backward(exec, "kokomo::MlpScorer::norm_backward", static_cast<C const*>(saved.states.data()),
                              static_cast<C const*>(d_out), d_states, scratch.inverse.data(), tokens, r,
                              norm_settings<T>(p), grads.norm.data(), write);

    if (previous_states)
      detail::for_each(exec, "kokomo::MlpScorer::states_scale_gradient", r,
                       detail::StatesScaleGradient<C>{d_states, previous(inputs, tokens), grads.states_scale.data(),
                                                      tokens, r, write});
    if (d_inputs.previous_states.given())
      detail::for_each(exec, "kokomo::MlpScorer::d_previous_states", tokens * r,
                       detail::PreviousStatesGradient<C>{
                           d_states, p.states_scale.data(),
                           d_inputs.previous_states.checked("d_inputs.scorer.previous_states", {tokens, r}).data(), r});
    auto const width = offset_t(x.extent(1));
    weight_gradient(d_states, r, x.data(), width, grads.down, grads.down_bias.data());
    input_gradient(d_states, r, p.down, width, dx.data(), Write::add);
  }

private:
  template <class Exec, class M, class C> void gelu(Exec const& exec, M const& pre, C* hidden) const {
    detail::for_each(exec, "kokomo::MlpScorer::gelu", offset_t(pre.size()), detail::GeluForward<C>{pre.data(), hidden});
  }
  template <class Exec, class M, class C> void gelu_backward(Exec const& exec, M const& pre, C* d) const {
    detail::for_each(exec, "kokomo::MlpScorer::gelu_backward", offset_t(pre.size()),
                     detail::GeluBackward<C>{pre.data(), d});
  }
  template <class T, class P> detail::RmsNormSettings<compute_t<T>> norm_settings(P const& p) const {
    return {compute_t<T>(epsilon), 0, 1, p.norm.data()};
  }
  template <class I> auto previous(I const& inputs, offset_t tokens) const {
    return inputs.previous_states.checked("inputs.scorer.previous_states", {tokens, state_size}).data();
  }
};

} // namespace kokomo::inline v0

#endif
