// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_PREDICTED_SCORER_HPP
#define KOKOMO_ROUTER_PREDICTED_SCORER_HPP

#include <kokomo/check.hpp>
#include <kokomo/detail/aliasing.hpp>
#include <kokomo/router/hidden_layer_scorer.hpp>
#include <kokomo/router/linear_scorer.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Two matrices [tokens, n] side by side, or a matrix [tokens, 2 n] apart.
template <class C> struct SideBySide {
  C const *first, *second;
  offset_t n;
  C* both;
  KOKKOS_FUNCTION void operator()(offset_t i) const {
    both[i / n * 2 * n + i % n] = first[i];
    both[i / n * 2 * n + n + i % n] = second[i];
  }
};
template <class C> struct SetApart {
  C const* both;
  offset_t n;
  C *first, *second;
  KOKKOS_FUNCTION void operator()(offset_t i) const {
    first[i] = both[i / n * 2 * n + i % n];
    second[i] = both[i / n * 2 * n + n + i % n];
  }
};

} // namespace detail

/// A scorer beside a small one that learns to predict, token by token, what a choice over the whole sequence takes:
///
///     z = [router(x), predictor(x)]       twice as many logit columns as experts
///
/// Everything routes and weighs by the first half. ExpertChoice with InferenceChoice::predicted takes by the second, and
/// MembershipLoss with `.predicted` teaches it. No gradient of the predictor reaches x: it learns beside the model and does
/// not disturb it. Parameters: those of both, as "router.router." and "router.predictor.".
/// Source: Mixture-of-Depths' second way to sample, as third parties describe it (docs/policies/router/predicted_scorer.md).
/// \throws kokomo::Error those of the two
template <class RouterT = LinearScorer, class PredictorT = HiddenLayerScorer<Relu>> struct PredictedScorer {
  static constexpr bool causal = detail::is_causal<RouterT>() && detail::is_causal<PredictorT>();
  static_assert(!detail::CountsColumns<RouterT> && !detail::CountsColumns<PredictorT>,
                "kokomo::PredictedScorer: both scorers must have one logit an expert");

  RouterT router{};
  PredictorT predictor{};

  bool causal_in(Mode mode) const {
    return detail::is_causal_in(router, mode) && detail::is_causal_in(predictor, mode);
  }

  template <class T, class Exec> struct Parameters {
    parameters_t<RouterT, T, Exec> router;
    parameters_t<PredictorT, T, Exec> predictor;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, PredictedScorer const& policy, Sizes const& sizes)
        : router(detail::make<decltype(router)>(allocate, policy.router, of_one(sizes))),
          predictor(detail::make<decltype(predictor)>(allocate, policy.predictor, of_one(sizes))) {}
    template <class F> void for_each(F&& f, std::string_view) const { // a Name may outlive the call: literals only
      router.for_each(f, "router.router.");
      predictor.for_each(f, "router.predictor.");
    }
  };
  template <class T, class Exec> struct Inputs : CallInfo {
    inputs_t<RouterT, T, Exec> router{};
    inputs_t<PredictorT, T, Exec> predictor{};

    template <class F> void for_each(F&& f) const {
      detail::visit_arguments(router, f), detail::visit_arguments(predictor, f);
    }
  };
  template <class T, class Exec> struct InputGradients {
    detail::input_gradients_t<RouterT, T, Exec> router{};

    template <class F> void for_each(F&& f) const { detail::visit_arguments(router, f); }
  };
  template <class T, class Exec> struct Saved {
    saved_t<RouterT, T, Exec> router;
    saved_t<PredictorT, T, Exec> predictor;
    Matrix<compute_t<T>, Exec> logits, predictions; ///< [tokens, experts]

    Saved(detail::Arena& arena, PredictedScorer const& policy, Sizes const& sizes)
        : router(detail::make<decltype(router)>(arena, policy.router, of_one(sizes))),
          predictor(detail::make<decltype(predictor)>(arena, policy.predictor, of_one(sizes))),
          logits(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.experts)),
          predictions(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.experts)) {}
  };
  template <class T, class Exec> struct Scratch {
    scratch_t<RouterT, T, Exec> router;
    scratch_t<PredictorT, T, Exec> predictor;

    Scratch(detail::Arena& arena, PredictedScorer const& policy, Sizes const& sizes)
        : router(detail::make<decltype(router)>(arena, policy.router, of_one(sizes))),
          predictor(detail::make<decltype(predictor)>(arena, policy.predictor, of_one(sizes))) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    backward_scratch_t<RouterT, T, Exec> router;
    backward_scratch_t<PredictorT, T, Exec> predictor;
    Matrix<compute_t<T>, Exec> d_logits, d_predictions; // [tokens, experts]
    Matrix<compute_t<T>, Exec> stopped;                 // [tokens, router width] where the predictor's gradient ends

    BackwardScratch(detail::Arena& arena, PredictedScorer const& policy, Sizes const& sizes)
        : router(detail::make<decltype(router)>(arena, policy.router, of_one(sizes))),
          predictor(detail::make<decltype(predictor)>(arena, policy.predictor, of_one(sizes))),
          d_logits(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.experts)),
          d_predictions(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.experts)),
          stopped(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.router_width)) {}
  };

  index_t columns(Sizes const& sizes) const { return 2 * sizes.experts; }
  void check(Sizes const& sizes) const {
    detail::check_settings(router, of_one(sizes));
    detail::check_settings(predictor, of_one(sizes));
  }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    if constexpr (detail::ChecksInputs<RouterT, T, Exec>)
      router.template check_inputs<T, Exec>(inputs.router, of_one(sizes));
    if constexpr (detail::ChecksInputs<PredictorT, T, Exec>)
      predictor.template check_inputs<T, Exec>(inputs.predictor, of_one(sizes));
  }
  template <class T, class Exec>
  void check_input_gradients(InputGradients<T, Exec> const& d, Sizes const& sizes) const {
    if constexpr (detail::ChecksInputGradients<RouterT, T, Exec>)
      router.template check_input_gradients<T, Exec>(d.router, of_one(sizes));
  }

  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, 2 experts]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& p, Matrix<T const, Exec> const& x,
               Inputs<T, Exec> const& inputs, Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    router.template forward<T>(exec, p.router, x, called(inputs.router, inputs), saved.logits, saved.router,
                               scratch.router, workers);
    predictor.template forward<T>(exec, p.predictor, x, called(inputs.predictor, inputs), saved.predictions,
                                  saved.predictor, scratch.predictor, workers);
    detail::for_each(exec, "kokomo::PredictedScorer::join", offset_t(saved.logits.size()),
                     detail::SideBySide<C>{saved.logits.data(), saved.predictions.data(),
                                           offset_t(saved.logits.extent(1)), logits.data()});
  }

  /// \param[in] d_logits [tokens, 2 experts]
  /// \param[in,out] dx [tokens, router width], the router's part added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& p, Matrix<T const, Exec> const& x,
                Inputs<T, Exec> const& inputs, Matrix<compute_t<T> const, Exec> const&,
                Matrix<compute_t<T>, Exec> const& d_logits, Matrix<compute_t<T>, Exec> const& dx,
                InputGradients<T, Exec> const& d_inputs, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::PredictedScorer::part", offset_t(saved.logits.size()),
                     detail::SetApart<C>{d_logits.data(), offset_t(saved.logits.extent(1)), scratch.d_logits.data(),
                                         scratch.d_predictions.data()});
    router.template backward<T>(exec, p.router, x, called(inputs.router, inputs), saved.logits, scratch.d_logits, dx,
                                d_inputs.router, grads.router, write, saved.router, scratch.router, workers);
    detail::fill(exec, "kokomo::PredictedScorer::reset", scratch.stopped.data(), offset_t(scratch.stopped.size()), 0);
    predictor.template backward<T>(exec, p.predictor, x, called(inputs.predictor, inputs), saved.predictions,
                                   scratch.d_predictions, scratch.stopped,
                                   detail::input_gradients_t<PredictorT, T, Exec>{}, grads.predictor, write,
                                   saved.predictor, scratch.predictor, workers);
  }

private:
  static Sizes of_one(Sizes sizes) {
    sizes.columns = sizes.experts;
    return sizes;
  }
  template <class In> static In called(In in, CallInfo const& call) {
    if constexpr (std::is_base_of_v<CallInfo, In>) static_cast<CallInfo&>(in) = call;
    return in;
  }
};

} // namespace kokomo::inline v0

#endif
