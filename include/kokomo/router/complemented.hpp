// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_COMPLEMENTED_HPP
#define KOKOMO_ROUTER_COMPLEMENTED_HPP

#include <kokomo/check.hpp>
#include <kokomo/router/linear_scorer.hpp>

namespace kokomo::inline v0 {

/// A router that also answers: beside the logits of `inner` it adds a linear function of its own input to what the experts
/// return,
///
///     y = experts(x) + C(h),   C(h) = complement h (+ complement_bias),   h the router's input
///
/// like a shared expert whose weights belong to the router and which sees what the router sees. With `complement` zero, as
/// new parameters are, the experts' output is the layer's. The combine slot gets C(h) in the shared experts' place.
/// Parameters: those of `inner`; `complement` [hidden, router width], `complement_bias` [hidden] if `.bias`, in the compute
/// type. Source: FusionRoute (arXiv 2601.05106), its form in a layer reconstructed; docs/policies/router/complemented.md.
/// \throws kokomo::Error those of inner
template <class InnerT = LinearScorer> struct Complemented {
  using Inner = InnerT;
  static constexpr bool causal = detail::is_causal<Inner>();
  static_assert(
      !requires { typename InnerT::Logits; },
      "kokomo::Complemented: a scorer of one logit an expert, not of keys (KeyScorer, GridScorer)");

  Inner inner{};
  bool bias = false;

  template <class T, class Exec> struct Parameters {
    parameters_t<Inner, T, Exec> inner;
    OwnedMatrix<compute_t<T>, Exec> complement;
    OwnedVector<compute_t<T>, Exec> complement_bias;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, Complemented const& policy, Sizes const& sizes)
        : inner(detail::make<decltype(inner)>(allocate, policy.inner, sizes)) {
      allocate(complement, "kokomo::Complemented::complement", sizes.hidden, sizes.router_width);
      if (policy.bias) allocate(complement_bias, "kokomo::Complemented::complement_bias", sizes.hidden);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      inner.for_each(f, prefix);
      f(Name{prefix, "complement"}, complement);
      if (complement_bias.extent(0) > 0) f(Name{prefix, "complement_bias"}, complement_bias);
    }
  };
  template <class T, class Exec> using Inputs = inputs_t<Inner, T, Exec>;
  template <class T, class Exec> using InputGradients = detail::input_gradients_t<Inner, T, Exec>;
  template <class T, class Exec> struct Saved {
    saved_t<Inner, T, Exec> inner;
    Matrix<compute_t<T>, Exec> complement; ///< [tokens, hidden] C(h)

    Saved(detail::Arena& arena, Complemented const& policy, Sizes const& sizes)
        : inner(detail::make<decltype(inner)>(arena, policy.inner, sizes)),
          complement(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.hidden)) {}
  };
  template <class T, class Exec> using Scratch = detail::OfInner<scratch_t<Inner, T, Exec>>;
  template <class T, class Exec> struct BackwardScratch {
    backward_scratch_t<Inner, T, Exec> inner;
    Matrix<compute_t<T>, Exec> d_complement; ///< [tokens, hidden], from the combine slot

    BackwardScratch(detail::Arena& arena, Complemented const& policy, Sizes const& sizes)
        : inner(detail::make<decltype(inner)>(arena, policy.inner, sizes)),
          d_complement(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.hidden)) {}
  };

  void check(Sizes const& sizes) const { detail::check_settings(inner, sizes); }
  index_t columns(Sizes const& sizes) const {
    if constexpr (detail::CountsColumns<Inner>)
      return inner.columns(sizes);
    else
      return sizes.columns;
  }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    if constexpr (detail::ChecksInputs<Inner, T, Exec>) inner.template check_inputs<T, Exec>(inputs, sizes);
  }
  template <class T, class Exec>
  void check_input_gradients(InputGradients<T, Exec> const& d, Sizes const& sizes) const {
    if constexpr (detail::ChecksInputGradients<Inner, T, Exec>) inner.template check_input_gradients<T, Exec>(d, sizes);
  }

  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, columns]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& p, Matrix<T const, Exec> const& x,
               Inputs<T, Exec> const& inputs, Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    static_assert(!detail::keeps_state_v<Inner, T, Exec>, "kokomo::Complemented: its scorer may not keep a state");
    inner.template forward<T>(exec, p.inner, x, inputs, logits, saved.inner, scratch, workers);
    detail::linear(exec, "kokomo::Complemented::complement", x.data(), offset_t(x.extent(0)), offset_t(x.extent(1)),
                   static_cast<C const*>(p.complement.data()), static_cast<C const*>(p.complement_bias.data()),
                   offset_t(saved.complement.extent(1)), saved.complement.data(), Write::overwrite, workers);
  }

  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& p, Matrix<T const, Exec> const& x,
                Inputs<T, Exec> const& inputs, Matrix<compute_t<T> const, Exec> const& logits,
                Matrix<compute_t<T>, Exec> const& d_logits, Matrix<compute_t<T>, Exec> const& dx,
                InputGradients<T, Exec> const& d_inputs, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    inner.template backward<T>(exec, p.inner, x, inputs, logits, d_logits, dx, d_inputs, grads.inner, write,
                               saved.inner, scratch.inner, workers);
    C const* const d = scratch.d_complement.data();
    auto const tokens = offset_t(x.extent(0)), width = offset_t(x.extent(1));
    auto const hidden = offset_t(scratch.d_complement.extent(1));
    detail::linear_weight_gradient(exec, "kokomo::Complemented::complement_gradient", d, tokens, hidden, x.data(),
                                   width, grads.complement.data(), write, workers);
    if (bias)
      detail::linear_bias_gradient(exec, "kokomo::Complemented::bias_gradient", d, tokens, hidden,
                                   grads.complement_bias.data(), write);
    detail::linear_input_gradient(exec, "kokomo::Complemented::dx", d, tokens, width,
                                  static_cast<C const*>(p.complement.data()), hidden, dx.data(), Write::add, workers);
  }
};

} // namespace kokomo::inline v0

#endif
