// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_BALANCERS_HPP
#define KOKOMO_BALANCER_BALANCERS_HPP

#include <kokomo/concepts.hpp>

#include <tuple>
#include <utility>

namespace kokomo::inline v0 {

namespace detail {
template <class Policy>
concept HasBias = requires(Policy const& p) {
  {&Policy::template bias<float, Kokkos::DefaultExecutionSpace>};
};
} // namespace detail

/// Several balancers at once: their losses and gradients add up, each keeps its own state. At most one may bias
/// selection.
///
///     kokomo::Balancers<kokomo::SelectionBias, kokomo::ZLoss>{{{.rate = 1e-3f}, {.coefficient = 1e-4f}}}
template <class... Parts> struct Balancers {
  static constexpr bool causal = (detail::is_causal<Parts>() && ...);

  std::tuple<Parts...> parts{};

  template <class T, class Exec> struct State {
    std::tuple<state_t<Parts, T, Exec>...> parts;

    State() = default;
    State(Allocator<Exec> const& allocate, Balancers const& policy, Sizes const& sizes)
        : parts(std::apply(
              [&](auto const&... p) {
                return std::tuple<state_t<Parts, T, Exec>...>(
                    detail::make<state_t<Parts, T, Exec>>(allocate, p, sizes)...);
              },
              policy.parts)) {}
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      std::apply([&](auto const&... s) { (s.for_each(f, prefix), ...); }, parts);
    }
  };
  template <class T, class Exec> struct Saved {
    std::tuple<saved_t<Parts, T, Exec>...> parts;

    // a braced list is evaluated from left to right, which a function call's arguments are not
    Saved(detail::Arena& arena, Balancers const& policy, Sizes const& sizes)
        : parts(std::apply(
              [&](auto const&... p) {
                return std::tuple<saved_t<Parts, T, Exec>...>{
                    detail::make<saved_t<Parts, T, Exec>>(arena, p, sizes)...};
              },
              policy.parts)) {}
  };

  bool causal_in(Mode mode) const {
    return std::apply([mode](auto const&... p) { return (detail::is_causal_in(p, mode) && ...); }, parts);
  }
  bool moves_bias() const {
    return std::apply([](auto const&... p) { return (detail::moves_bias(p) || ...); }, parts);
  }
  void check(Sizes const& sizes) const {
    static_assert((int(detail::HasBias<Parts>) + ... + 0) <= 1,
                  "kokomo::Balancers: at most one of the balancers may have a selection bias");
    std::apply([&](auto const&... p) { (detail::check_settings(p, sizes), ...); }, parts);
  }

  template <class T, class Exec>
  requires((detail::HasBias<Parts> || ...)) Vector < compute_t<T>
  const, Exec > bias(State<T, Exec> const& state) const {
    Vector<compute_t<T> const, Exec> found;
    for_each_part([&]<std::size_t I>(auto const& p) {
      if constexpr (detail::HasBias<std::remove_cvref_t<decltype(p)>>)
        found = p.template bias<T, Exec>(std::get<I>(state.parts));
    });
    return found;
  }
  template <class GateScore, class T, class Exec>
  void prepare(Exec const& exec, Routing<T, Exec> const& routing, State<T, Exec> const& state,
               Saved<T, Exec> const& saved) const {
    for_each_part([&]<std::size_t I>(auto const& p) {
      auto const& s = std::get<I>(state.parts);
      auto const& kept = std::get<I>(saved.parts);
      if constexpr (detail::PreparesSelection<std::remove_cvref_t<decltype(p)>, GateScore, T, Exec>)
        p.template prepare<GateScore, T>(exec, routing, s, kept);
    });
  }
  template <class T, class Exec>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
               State<T, Exec> const& state, Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    for_each_part([&]<std::size_t I>(auto const& p) {
      auto const& s = std::get<I>(state.parts);
      auto const& kept = std::get<I>(saved.parts);
      if constexpr (detail::ObservesRouting<std::remove_cvref_t<decltype(p)>, T, Exec>)
        p.observe(exec, routing, a, s, kept, loss);
    });
  }
  template <class T, class Exec>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    for_each_part([&]<std::size_t I>(auto const& p) {
      auto const& kept = std::get<I>(saved.parts);
      if constexpr (detail::HasLossGradient<std::remove_cvref_t<decltype(p)>, T, Exec>)
        p.backward(exec, routing, a, kept, d_logits);
    });
  }
  template <class T, class Exec, class Parameters>
  void observe_parameters(Exec const& exec, Parameters const& parameters, Routing<T, Exec> const& routing,
                          Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    for_each_part([&]<std::size_t I>(auto const& p) {
      auto const& kept = std::get<I>(saved.parts);
      if constexpr (detail::ObservesParameters<std::remove_cvref_t<decltype(p)>, Parameters, T, Exec>)
        p.template observe_parameters<T>(exec, parameters, routing, kept, loss);
    });
  }
  template <class T, class Exec, class Parameters>
  void backward_parameters(Exec const& exec, Parameters const& parameters, Routing<T, Exec> const& routing,
                           Saved<T, Exec> const& saved, Parameters const& grads) const {
    for_each_part([&]<std::size_t I>(auto const& p) {
      auto const& kept = std::get<I>(saved.parts);
      if constexpr (detail::ObservesParameters<std::remove_cvref_t<decltype(p)>, Parameters, T, Exec>)
        p.template backward_parameters<T>(exec, parameters, routing, kept, grads);
    });
  }
  template <class T, class Exec> void step(Exec const& exec, State<T, Exec> const& state) const {
    for_each_part([&]<std::size_t I>(auto const& p) {
      auto const& s = std::get<I>(state.parts);
      if constexpr (detail::Steps<std::remove_cvref_t<decltype(p)>, T, Exec>) p.template step<T>(exec, s);
    });
  }

private:
  template <class F> void for_each_part(F const& f) const {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (f.template operator()<I>(std::get<I>(parts)), ...);
    }
    (std::index_sequence_for<Parts...>{});
  }
};

} // namespace kokomo::inline v0

#endif
