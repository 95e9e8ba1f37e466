// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ADJUST_ADJUSTMENTS_HPP
#define KOKOMO_ADJUST_ADJUSTMENTS_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/aliasing.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/slots.hpp>

#include <tuple>
#include <utility>

namespace kokomo::inline v0 {
namespace detail {

template <class Exec> struct MergeMask {
  Vector<index_t const, Exec> part;
  Vector<index_t, Exec> mask;

  KOKKOS_FUNCTION void operator()(offset_t e) const { mask[e] = part[e] != 0 && mask[e] != 0 ? 1 : 0; }
};

} // namespace detail

/// Several adjustments one after the other: each sees what those before it made of the logits. An expert that one of them
/// masks is masked.
///
///     kokomo::Adjustments<kokomo::AdditiveLogits, kokomo::LogitJitter>{{{}, {.epsilon = 1e-2f}}}
template <class... Parts> struct Adjustments {
  using slot = slots::adjust;
  static constexpr bool causal = (detail::is_causal<Parts>() && ...);

  std::tuple<Parts...> parts{};

  template <class T, class Exec> struct Parameters {
    std::tuple<parameters_t<Parts, T, Exec>...> parts;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, Adjustments const& policy, Sizes const& sizes)
        : parts(make_each<std::tuple<parameters_t<Parts, T, Exec>...>>(allocate, policy, sizes)) {}
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      std::apply([&](auto const&... p) { (p.for_each(f, prefix), ...); }, parts);
    }
  };
  template <class T, class Exec> struct State {
    std::tuple<state_t<Parts, T, Exec>...> parts;

    State() = default;
    State(Allocator<Exec> const& allocate, Adjustments const& policy, Sizes const& sizes)
        : parts(make_each<std::tuple<state_t<Parts, T, Exec>...>>(allocate, policy, sizes)) {}
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      std::apply([&](auto const&... s) { (s.for_each(f, prefix), ...); }, parts);
    }
  };
  template <class T, class Exec> struct Inputs {
    std::tuple<inputs_t<Parts, T, Exec>...> parts;

    template <class F> void for_each(F&& f) const {
      std::apply([&](auto const&... p) { (detail::visit_arguments(p, f), ...); }, parts);
    }
  };
  template <class T, class Exec> struct Saved {
    std::tuple<saved_t<Parts, T, Exec>...> parts;
    Vector<index_t, Exec> mask; ///< [experts] what all of them leave

    Saved(detail::Arena& arena, Adjustments const& policy, Sizes const& sizes)
        : parts(make_each<std::tuple<saved_t<Parts, T, Exec>...>>(arena, policy, sizes)),
          mask(arena.vector<index_t, Exec>(masks<T, Exec>() ? sizes.experts : 0)) {}
  };

  bool causal_in(Mode mode) const {
    return std::apply([mode](auto const&... p) { return (detail::is_causal_in(p, mode) && ...); }, parts);
  }
  void check(Sizes const& sizes) const {
    std::apply([&](auto const&... p) { (detail::check_settings(p, sizes), ...); }, parts);
  }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    for_each_part([&]<std::size_t I>(auto const& p) {
      if constexpr (detail::ChecksInputs<std::remove_cvref_t<decltype(p)>, T, Exec>)
        p.template check_inputs<T, Exec>(std::get<I>(inputs.parts), sizes);
    });
  }

  template <class T, class Exec>
  requires((detail::MasksExperts<Parts, T, Exec> ||
            ...)) Vector<index_t const, Exec> expert_mask(State<T, Exec> const&, Saved<T, Exec> const& saved)
  const { return saved.mask; }

  template <class T, class Exec>
  void adjust(Exec const& exec, Parameters<T, Exec> const& parameters, Routing<T, Exec> const& routing,
              State<T, Exec> const& state, Inputs<T, Exec> const& inputs, Matrix<compute_t<T>, Exec> const& logits,
              Saved<T, Exec> const& saved) const {
    // A part may ask which experts the parts before it left: all of them, at first.
    if constexpr (masks<T, Exec>())
      detail::fill(exec, "kokomo::Adjustments::reset", saved.mask.data(), routing.sizes.experts, 1);
    for_each_part([&]<std::size_t I>(auto const& p) {
      using Part = std::remove_cvref_t<decltype(p)>;
      auto const& s = std::get<I>(state.parts);
      auto const& kept = std::get<I>(saved.parts);
      p.template adjust<T>(exec, std::get<I>(parameters.parts), routing, s, std::get<I>(inputs.parts), logits, kept);
      if constexpr (detail::MasksExperts<Part, T, Exec>)
        detail::for_each(exec, "kokomo::Adjustments::mask", routing.sizes.experts,
                         detail::MergeMask<Exec>{p.template expert_mask<T, Exec>(s, kept), saved.mask});
    });
  }

  template <class T, class Exec>
  void adjust_backward(Exec const& exec, Parameters<T, Exec> const& parameters, Routing<T, Exec> const& routing,
                       State<T, Exec> const& state, Inputs<T, Exec> const& inputs, Saved<T, Exec> const& saved,
                       Matrix<compute_t<T>, Exec> const& d_logits, Parameters<T, Exec> const& grads,
                       Write write) const {
    for_each_part_reversed([&]<std::size_t I>(auto const& p) {
      if constexpr (detail::AdjustsGradient<std::remove_cvref_t<decltype(p)>, T, Exec>)
        p.template adjust_backward<T>(exec, std::get<I>(parameters.parts), routing, std::get<I>(state.parts),
                                      std::get<I>(inputs.parts), std::get<I>(saved.parts), d_logits,
                                      std::get<I>(grads.parts), write);
    });
  }

private:
  template <class T, class Exec> static constexpr bool masks() { return (detail::MasksExperts<Parts, T, Exec> || ...); }
  /// A braced list is evaluated from left to right, which a function call's arguments are not.
  template <class Tuple, class First>
  static Tuple make_each(First&& first, Adjustments const& policy, Sizes const& sizes) {
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      return Tuple{detail::make<std::tuple_element_t<I, Tuple>>(first, std::get<I>(policy.parts), sizes)...};
    }
    (std::index_sequence_for<Parts...>{});
  }
  template <class F> void for_each_part(F const& f) const {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (f.template operator()<I>(std::get<I>(parts)), ...);
    }
    (std::index_sequence_for<Parts...>{});
  }
  template <class F> void for_each_part_reversed(F const& f) const {
    constexpr std::size_t last = sizeof...(Parts) - 1;
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (f.template operator()<last - I>(std::get<last - I>(parts)), ...);
    }
    (std::index_sequence_for<Parts...>{});
  }
};

} // namespace kokomo::inline v0

#endif
