// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_GATING_RESIDUAL_HPP
#define KOKOMO_ROUTER_GATING_RESIDUAL_HPP

#include <kokomo/argument.hpp>
#include <kokomo/check.hpp>
#include <kokomo/detail/aliasing.hpp>
#include <kokomo/router/linear_scorer.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class C> struct AddMatrix {
  C const* more;
  C* to;
  KOKKOS_FUNCTION void operator()(offset_t i) const { to[i] += more[i]; }
};

template <class Base, class C, class Exec> struct ResidualInputs : Base {
  MatrixArgument<C const, Exec> previous_logits{}; ///< [tokens, columns], given if and only if `.residual`
  MatrixArgument<C const, Exec> d_logits{};        ///< [tokens, columns], backward only; not given: zero

  template <class F> void for_each(F&& f) const {
    visit_arguments(static_cast<Base const&>(*this), f);
    f(Name{"", "previous_logits"}, previous_logits);
    f(Name{"", "d_logits"}, d_logits);
  }
};
template <class Base, class C, class Exec> struct ResidualInputGradients : Base {
  MatrixArgument<C, Exec> previous_logits{}; ///< [tokens, columns], overwritten; not given: not computed

  template <class F> void for_each(F&& f) const {
    visit_arguments(static_cast<Base const&>(*this), f);
    f(Name{"", "previous_logits"}, previous_logits);
  }
};

} // namespace detail

/// Logits that remember how the layer below scored the same tokens:
///
///     z = inner(x) + residual z_previous
///
/// z_previous are the layer's below, its own residual included: `Layer::saved(tape).scored`, as
/// `Inputs::previous_logits`. Gradients travel the other way: `InputGradients::previous_logits` of the layer above is
/// `Inputs::d_logits` of this one in backward. The lowest layer has `.residual = false`.
/// Parameters: those of inner, and `residual` [columns, columns]. Source: MoE++ (docs/policies/router/gating_residual.md).
/// \throws kokomo::Error those of inner; 203 for logits that are missing, or given to the lowest layer
template <class Inner = LinearScorer> struct GatingResidual {
  static constexpr bool causal = detail::is_causal<Inner>();
  bool causal_in(Mode mode) const { return detail::is_causal_in(inner, mode); }
  static_assert(!detail::CountsColumns<Inner>, "kokomo::GatingResidual: the scorer must have one logit an expert");

  Inner inner{};
  bool residual = true; ///< false: z = inner(x)

  template <class T, class Exec> struct Parameters : parameters_t<Inner, T, Exec> {
    using Base = parameters_t<Inner, T, Exec>;
    OwnedMatrix<compute_t<T>, Exec> residual;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, GatingResidual const& policy, Sizes const& sizes)
        : Base(detail::make<Base>(allocate, policy.inner, sizes)) {
      if (policy.residual) allocate(residual, "kokomo::GatingResidual::residual", sizes.columns, sizes.columns);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      Base::for_each(f, prefix);
      if (residual.extent(0) > 0) f(Name{prefix, "residual"}, residual);
    }
  };
  template <class T, class Exec> using Inputs = detail::ResidualInputs<inputs_t<Inner, T, Exec>, compute_t<T>, Exec>;
  template <class T, class Exec>
  using InputGradients = detail::ResidualInputGradients<detail::input_gradients_t<Inner, T, Exec>, compute_t<T>, Exec>;
  template <class T, class Exec> struct Saved {
    saved_t<Inner, T, Exec> inner;
    Matrix<compute_t<T>, Exec> inner_logits; ///< [tokens, columns] what inner's backward may read

    Saved(detail::Arena& arena, GatingResidual const& policy, Sizes const& sizes)
        : inner(detail::make<decltype(inner)>(arena, policy.inner, sizes)),
          inner_logits(arena.matrix<compute_t<T>, Exec>(policy.residual ? sizes.tokens : 0, sizes.columns)) {}
  };
  template <class T, class Exec> using Scratch = detail::OfInner<scratch_t<Inner, T, Exec>>;
  template <class T, class Exec> using BackwardScratch = detail::OfInner<backward_scratch_t<Inner, T, Exec>>;

  void check(Sizes const& sizes) const { detail::check_settings(inner, sizes); }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    if (residual)
      (void)inputs.previous_logits.checked("inputs.scorer.previous_logits", {sizes.tokens, sizes.columns});
    else
      detail::require(!inputs.previous_logits.given(), 203,
                      "inputs.scorer.previous_logits is given, though GatingResidual::residual is false");
    if (inputs.d_logits.given()) (void)inputs.d_logits.checked("inputs.scorer.d_logits", {sizes.tokens, sizes.columns});
    if constexpr (detail::ChecksInputs<Inner, T, Exec>) inner.template check_inputs<T, Exec>(inputs, sizes);
  }
  template <class T, class Exec>
  void check_input_gradients(InputGradients<T, Exec> const& d, Sizes const& sizes) const {
    if constexpr (detail::ChecksInputGradients<Inner, T, Exec>) inner.template check_input_gradients<T, Exec>(d, sizes);
    if (!d.previous_logits.given()) return;
    detail::require(residual, 203,
                    "d_inputs.scorer.previous_logits is given, though GatingResidual::residual is false");
    (void)d.previous_logits.checked("d_inputs.scorer.previous_logits", {sizes.tokens, sizes.columns});
  }

  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, columns]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
               Inputs<T, Exec> const& inputs, Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch, detail::WorkerScratch const& workers) const {
    static_assert(!detail::keeps_state_v<Inner, T, Exec>, "kokomo::GatingResidual: its scorer may not keep a state");
    using C = compute_t<T>;
    auto const& own = residual ? saved.inner_logits : logits;
    inner.template forward<T>(exec, parameters, x, inputs, own, saved.inner, scratch, workers);
    if (!residual) return;
    auto const tokens = offset_t(logits.extent(0)), columns = offset_t(logits.extent(1));
    detail::convert(exec, "kokomo::GatingResidual::copy", own.data(), logits.data(), tokens * columns);
    detail::linear(exec, "kokomo::GatingResidual::add", previous<C>(inputs, tokens, columns), tokens, columns,
                   static_cast<C const*>(parameters.residual.data()), static_cast<C const*>(nullptr), columns,
                   logits.data(), Write::add, workers);
  }

  /// \param[in,out] d_logits [tokens, columns], used up
  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
                Inputs<T, Exec> const& inputs, Matrix<compute_t<T> const, Exec> const& logits,
                Matrix<compute_t<T>, Exec> const& d_logits, Matrix<compute_t<T>, Exec> const& dx,
                InputGradients<T, Exec> const& d_inputs, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const tokens = offset_t(d_logits.extent(0)), columns = offset_t(d_logits.extent(1));
    if (inputs.d_logits.given())
      detail::for_each(exec, "kokomo::GatingResidual::d_logits", tokens * columns,
                       detail::AddMatrix<C>{inputs.d_logits.checked("inputs.scorer.d_logits", {tokens, columns}).data(),
                                            d_logits.data()});
    if (residual) {
      C const* const d = d_logits.data();
      detail::linear_weight_gradient(exec, "kokomo::GatingResidual::gradient", d, tokens, columns,
                                     previous<C>(inputs, tokens, columns), columns, grads.residual.data(), write,
                                     workers);
      if (d_inputs.previous_logits.given())
        detail::linear_input_gradient(
            exec, "kokomo::GatingResidual::d_previous", d, tokens, columns,
            static_cast<C const*>(parameters.residual.data()), columns,
            d_inputs.previous_logits.checked("d_inputs.scorer.previous_logits", {tokens, columns}).data(),
            Write::overwrite, workers);
    }
    Matrix<C const, Exec> own = logits;
    if (residual) own = saved.inner_logits;
    inner.template backward<T>(exec, parameters, x, inputs, own, d_logits, dx, d_inputs, grads, write, saved.inner,
                               scratch, workers);
  }

private:
  template <class C, class I> static C const* previous(I const& inputs, offset_t tokens, offset_t columns) {
    return inputs.previous_logits.checked("inputs.scorer.previous_logits", {tokens, columns}).data();
  }
};

} // namespace kokomo::inline v0

#endif
