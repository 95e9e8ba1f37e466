// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_SUM_SCORER_HPP
#define KOKOMO_ROUTER_SUM_SCORER_HPP

#include <kokomo/check.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/aliasing.hpp>
#include <kokomo/detail/launch.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class C> struct AddScaled {
  C const *first, *second;
  C scale;
  C* sum;
  KOKKOS_FUNCTION void operator()(offset_t i) const { sum[i] = first[i] + scale * second[i]; }
};
template <class C> struct SplitScaled {
  C const* d;
  C scale;
  C *first, *second;
  KOKKOS_FUNCTION void operator()(offset_t i) const { first[i] = d[i], second[i] = scale * d[i]; }
};

} // namespace detail

/// Logits of two scorers, added: z = first(x) + scale second(x).
/// Parameters: those of both, as "router.first." and "router.second."; inputs as `first` and `second`. Source: Glider (arXiv:2410.07172).
/// \throws kokomo::Error those of the two
template <class First, class Second> struct SumScorer {
  static constexpr bool causal = detail::is_causal<First>() && detail::is_causal<Second>();
  static_assert(!detail::CountsColumns<First> && !detail::CountsColumns<Second>,
                "kokomo::SumScorer: both scorers must have one logit an expert");

  First first{};
  Second second{};
  float scale = 1; ///< of the second

  bool causal_in(Mode mode) const { return detail::is_causal_in(first, mode) && detail::is_causal_in(second, mode); }

  template <class T, class Exec> struct Parameters {
    parameters_t<First, T, Exec> first;
    parameters_t<Second, T, Exec> second;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, SumScorer const& policy, Sizes const& sizes)
        : first(detail::make<parameters_t<First, T, Exec>>(allocate, policy.first, sizes)),
          second(detail::make<parameters_t<Second, T, Exec>>(allocate, policy.second, sizes)) {}
    template <class F> void for_each(F&& f, std::string_view) const { // a Name may outlive the call: literals only
      first.for_each(f, "router.first.");
      second.for_each(f, "router.second.");
    }
  };
  template <class T, class Exec> struct Inputs : CallInfo {
    inputs_t<First, T, Exec> first{};
    inputs_t<Second, T, Exec> second{};

    template <class F> void for_each(F&& f) const {
      detail::visit_arguments(first, f), detail::visit_arguments(second, f);
    }
  };
  template <class T, class Exec> struct InputGradients {
    detail::input_gradients_t<First, T, Exec> first{};
    detail::input_gradients_t<Second, T, Exec> second{};

    template <class F> void for_each(F&& f) const {
      detail::visit_arguments(first, f), detail::visit_arguments(second, f);
    }
  };
  template <class T, class Exec> struct Saved {
    saved_t<First, T, Exec> first;
    saved_t<Second, T, Exec> second;
    Matrix<compute_t<T>, Exec> first_logits;  ///< [tokens, columns]
    Matrix<compute_t<T>, Exec> second_logits; ///< [tokens, columns]

    Saved(detail::Arena& arena, SumScorer const& policy, Sizes const& sizes)
        : first(detail::make<saved_t<First, T, Exec>>(arena, policy.first, sizes)),
          second(detail::make<saved_t<Second, T, Exec>>(arena, policy.second, sizes)),
          first_logits(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.columns)),
          second_logits(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.columns)) {}
  };
  template <class T, class Exec> struct Scratch {
    scratch_t<First, T, Exec> first;
    scratch_t<Second, T, Exec> second;

    Scratch(detail::Arena& arena, SumScorer const& policy, Sizes const& sizes)
        : first(detail::make<scratch_t<First, T, Exec>>(arena, policy.first, sizes)),
          second(detail::make<scratch_t<Second, T, Exec>>(arena, policy.second, sizes)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    backward_scratch_t<First, T, Exec> first;
    backward_scratch_t<Second, T, Exec> second;
    Matrix<compute_t<T>, Exec> d_first;  // [tokens, columns]
    Matrix<compute_t<T>, Exec> d_second; // [tokens, columns]

    BackwardScratch(detail::Arena& arena, SumScorer const& policy, Sizes const& sizes)
        : first(detail::make<backward_scratch_t<First, T, Exec>>(arena, policy.first, sizes)),
          second(detail::make<backward_scratch_t<Second, T, Exec>>(arena, policy.second, sizes)),
          d_first(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.columns)),
          d_second(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.columns)) {}
  };

  void check(Sizes const& sizes) const {
    detail::check_settings(first, sizes);
    detail::check_settings(second, sizes);
  }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    if constexpr (detail::ChecksInputs<First, T, Exec>) first.template check_inputs<T, Exec>(inputs.first, sizes);
    if constexpr (detail::ChecksInputs<Second, T, Exec>) second.template check_inputs<T, Exec>(inputs.second, sizes);
  }
  template <class T, class Exec>
  void check_input_gradients(InputGradients<T, Exec> const& d, Sizes const& sizes) const {
    if constexpr (detail::ChecksInputGradients<First, T, Exec>)
      first.template check_input_gradients<T, Exec>(d.first, sizes);
    if constexpr (detail::ChecksInputGradients<Second, T, Exec>)
      second.template check_input_gradients<T, Exec>(d.second, sizes);
  }

  /// \param[out] logits [tokens, columns]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
               Inputs<T, Exec> const& inputs, Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    first.template forward<T>(exec, parameters.first, x, called(inputs.first, inputs), saved.first_logits, saved.first,
                              scratch.first, workers);
    second.template forward<T>(exec, parameters.second, x, called(inputs.second, inputs), saved.second_logits,
                               saved.second, scratch.second, workers);
    detail::for_each(
        exec, "kokomo::SumScorer::add", offset_t(logits.size()),
        detail::AddScaled<C>{saved.first_logits.data(), saved.second_logits.data(), C(scale), logits.data()});
  }

  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
                Inputs<T, Exec> const& inputs, Matrix<compute_t<T> const, Exec> const&,
                Matrix<compute_t<T>, Exec> const& d_logits, Matrix<compute_t<T>, Exec> const& dx,
                InputGradients<T, Exec> const& d_inputs, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    using Logits = Matrix<C const, Exec>;
    detail::for_each(
        exec, "kokomo::SumScorer::split", offset_t(d_logits.size()),
        detail::SplitScaled<C>{d_logits.data(), C(scale), scratch.d_first.data(), scratch.d_second.data()});
    first.template backward<T>(exec, parameters.first, x, called(inputs.first, inputs), Logits(saved.first_logits),
                               scratch.d_first, dx, d_inputs.first, grads.first, write, saved.first, scratch.first,
                               workers);
    second.template backward<T>(exec, parameters.second, x, called(inputs.second, inputs), Logits(saved.second_logits),
                                scratch.d_second, dx, d_inputs.second, grads.second, write, saved.second,
                                scratch.second, workers);
  }

private:
  /// A part's inputs, with mode and step of the call where it wants them.
  template <class I> static I called(I inputs, CallInfo const& call) {
    if constexpr (std::is_base_of_v<CallInfo, I>) static_cast<CallInfo&>(inputs) = call;
    return inputs;
  }
};

} // namespace kokomo::inline v0

#endif
