// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_ADAPTIVE_L1_HPP
#define KOKOMO_BALANCER_ADAPTIVE_L1_HPP

#include <kokomo/balancer/switch_loss.hpp>

namespace kokomo::inline v0 {

/// What AdaptiveL1 does with lambda where exactly as many experts are active as wanted.
enum class AtTarget {
  keep, ///< nothing: the paper, sign(0) = 0
  fall  ///< divides, as with too few: the released code
};

namespace detail {

template <class State, class C, class Exec> struct ApplyLambda {
  State state;
  BalanceSums<C, Exec> sums;
  Matrix<C, Exec> phi;
  Vector<C const, Exec> plain; // [1] loss for lambda = 1
  double initial, factor;
  bool training;
  Vector<C, Exec> loss;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    C const lambda = C(initial * Kokkos::pow(factor, double(state.exponent[0])));
    for (std::size_t i = 0; i < phi.extent(0) * phi.extent(1); ++i) phi.data()[i] *= lambda;
    loss[0] += lambda * plain[0];
    if (!training) return;
    std::size_t const experts = sums.counts.extent(1) - 1;
    for (std::size_t s = 0; s < sums.counts.extent(0); ++s) {
      for (std::size_t e = 0; e < experts; ++e) state.active[0] += sums.counts(s, e);
      state.tokens[0] += sums.counts(s, experts);
    }
  }
};

template <class State> struct StepLambda {
  State state;
  double target; // active experts a token
  AtTarget at_target;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    if (state.tokens[0] == 0) return;
    double const active = double(state.active[0]), wanted = target * double(state.tokens[0]);
    state.exponent[0] += active > wanted ? 1 : active < wanted || at_target == AtTarget::fall ? -1 : 0;
    state.active[0] = 0;
    state.tokens[0] = 0;
  }
};

} // namespace detail

/// ReMoE's regularisation: a balancing loss whose coefficient holds the number of active experts at a target,
///
///     loss = lambda * E / target * sum_e f_e P_e,   f_e = share of tokens with e active,   P_e = mean of relu(z_e)
///     step: lambda *= factor if more than `target` experts a token were active on average, /= factor if fewer
///
/// P is no distribution, so there is no fixed value at balance. Active is what was chosen: use the Positive selector and
/// a ReLU gate. The activity is that of the training passes since the last step; without any, step changes nothing.
/// One lambda for several layers, as ReMoE has it: give their states the same Views and call `step` of one of them.
/// State: `exponent` [1], lambda = initial * factor^exponent; `active` [1], `tokens` [1].
/// Source: thu-ml/ReMoE (lambda 1e-8 at first, factor 1.2). At equality its code divides and the paper does nothing:
/// `at_target`.
/// \throws kokomo::Error 102 unless 1 <= target <= experts, 106 unless factor >= 1 and initial > 0
struct AdaptiveL1 {
  using Distribution = RawMass<ReluScore>;
  using Loss = SwitchLoss<Chosen, Distribution>;

  float target = 1;      ///< k: active experts a token
  float initial = 1e-8f; ///< lambda before the first step
  float factor = 1.2f;
  AtTarget at_target = AtTarget::keep;

  template <class T, class Exec> struct State {
    OwnedVector<offset_t, Exec> exponent, active, tokens;

    State() = default;
    State(Allocator<Exec> const& allocate, AdaptiveL1 const&, Sizes const&) {
      allocate(exponent, "kokomo::AdaptiveL1::exponent", 1);
      allocate(active, "kokomo::AdaptiveL1::active", 1);
      allocate(tokens, "kokomo::AdaptiveL1::tokens", 1);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "exponent"}, exponent), f(Name{prefix, "active"}, active), f(Name{prefix, "tokens"}, tokens);
    }
  };
  template <class T, class Exec> struct Saved {
    typename Loss::template Saved<T, Exec> inner;
    Vector<compute_t<T>, Exec> plain; ///< [1] loss for lambda = 1

    Saved(detail::Arena& arena, AdaptiveL1 const& policy, Sizes const& sizes)
        : inner(arena, policy.loss(), sizes), plain(arena.vector<compute_t<T>, Exec>(1)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(target >= 1 && target <= float(sizes.experts), 102, "AdaptiveL1 target = ", target,
                    ", expected 1 <= target <= ", sizes.experts);
    detail::require(initial > 0, 106, "AdaptiveL1 initial = ", initial, ", expected > 0");
    detail::require(factor >= 1, 106, "AdaptiveL1 factor = ", factor, ", expected >= 1");
  }

  template <class T, class Exec>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
               State<T, Exec> const& state, Saved<T, Exec> const& saved,
               Vector<compute_t<T>, Exec> const& total) const {
    using C = compute_t<T>;
    detail::fill(exec, "kokomo::AdaptiveL1::reset", saved.plain.data(), 1, 0);
    loss().observe(exec, routing, a, state, saved.inner, saved.plain);
    detail::for_each(exec, "kokomo::AdaptiveL1::apply", 1,
                     detail::ApplyLambda<State<T, Exec>, C, Exec>{state, saved.inner.sums, saved.inner.phi, saved.plain,
                                                                  double(initial), double(factor),
                                                                  routing.mode == Mode::training, total});
  }
  template <class T, class Exec>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    loss().backward(exec, routing, a, saved.inner, d_logits);
  }
  template <class T, class Exec> void step(Exec const& exec, State<T, Exec> const& state) const {
    detail::for_each(exec, "kokomo::AdaptiveL1::step", 1,
                     detail::StepLambda<State<T, Exec>>{state, double(target), at_target});
  }

private:
  Loss loss() const { return {.coefficient = 1, .top_k = 1, .groups = {.picks = target}}; }
};

} // namespace kokomo::inline v0

#endif
