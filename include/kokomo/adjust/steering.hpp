// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ADJUST_STEERING_HPP
#define KOKOMO_ADJUST_STEERING_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/random.hpp>
#include <kokomo/error.hpp>
#include <kokomo/slots.hpp>

#include <algorithm>
#include <vector>

namespace kokomo::inline v0 {

/// How an expert is steered towards, or away from.
enum class SteeringMode {
  soft, ///< z_e += strength * std(z): a push in units of the token's own spread
  hard  ///< z_e is just above the largest logit of the token (suppressed: just below the smallest)
};

namespace detail {

/// Mean and standard deviation over the experts, largest and smallest finite logit. NaN and infinity do not count.
template <class C> struct Spread {
  C mean = 0, deviation = 0;
  index_t finite = 0, highest = none, lowest = none;

  KOKKOS_FUNCTION Spread(C const* z, index_t n) {
    for (index_t e = 0; e < n; ++e) {
      if (!Kokkos::isfinite(z[e])) continue;
      ++finite;
      mean += z[e];
      if (highest == none || z[e] > z[highest]) highest = e;
      if (lowest == none || z[e] < z[lowest]) lowest = e;
    }
    if (finite == 0) return;
    mean /= C(finite);
    C squares = 0;
    for (index_t e = 0; e < n; ++e)
      if (Kokkos::isfinite(z[e])) squares += (z[e] - mean) * (z[e] - mean);
    deviation = Kokkos::sqrt(squares / C(finite));
  }
};

template <class T, class Exec> struct SteerSoftly {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Vector<index_t const, Exec> direction;
  C strength;
  Matrix<C, Exec> logits;
  Matrix<C, Exec> slope; // [tokens, experts] d deviation / d z

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    index_t const n = routing.sizes.experts;
    Spread<C> const spread(&logits(token, 0), n);
    for (index_t e = 0; e < n; ++e) {
      C const z = logits(token, e);
      slope(token, e) = spread.deviation > C(0) && Kokkos::isfinite(z)
                            ? (z - spread.mean) / (C(spread.finite) * spread.deviation)
                            : C(0);
      if (direction[e] != 0) logits(token, e) = z + (direction[e] > 0 ? strength : -strength) * spread.deviation;
    }
  }
};

template <class T, class Exec> struct SteerSoftlyBackward {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Vector<index_t const, Exec> direction;
  C strength;
  Matrix<C, Exec> slope;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C d_deviation = 0;
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      if (direction[e] != 0) d_deviation += (direction[e] > 0 ? strength : -strength) * d_logits(token, e);
    for (index_t e = 0; e < routing.sizes.experts; ++e) d_logits(token, e) += d_deviation * slope(token, e);
  }
};

template <class T, class Exec> struct SteerHard {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Vector<index_t const, Exec> direction;
  C margin, noise;
  std::uint64_t seed;
  Matrix<C, Exec> logits;
  Matrix<index_t, Exec> extremes; // [tokens, 2] whose logits were the largest and the smallest

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    index_t const n = routing.sizes.experts;
    Spread<C> const spread(&logits(token, 0), n);
    extremes(token, 0) = spread.highest;
    extremes(token, 1) = spread.lowest;
    if (spread.highest == none) return;
    C const above = logits(token, spread.highest), below = logits(token, spread.lowest);
    for (index_t e = 0; e < n; ++e) {
      if (direction[e] == 0) continue;
      C const extreme = direction[e] > 0 ? above : below;
      C const distance = margin + (noise > C(0) ? noise * normal_size(token, e) : C(0));
      // so far that the scores differ too, however large the logits are
      C const least = C(4) * Kokkos::Experimental::epsilon_v<C> * Kokkos::max(C(1), Kokkos::abs(extreme));
      logits(token, e) = extreme + (direction[e] > 0 ? Kokkos::max(distance, least) : -Kokkos::max(distance, least));
    }
  }
  /// |N(0, 1)|, by Box and Muller.
  KOKKOS_FUNCTION C normal_size(offset_t token, index_t e) const {
    double const radius = Kokkos::sqrt(-2 * Kokkos::log(uniform(seed, routing.step, token, 2 * e)));
    return C(Kokkos::abs(radius * Kokkos::cos(6.283185307179586 * uniform(seed, routing.step, token, 2 * e + 1))));
  }
};

/// A forced logit is the largest one plus a constant: what it gets passes to that one.
template <class T, class Exec> struct SteerHardBackward {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Vector<index_t const, Exec> direction;
  Matrix<index_t, Exec> extremes;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (extremes(token, 0) == none) return;
    C of_highest = 0, of_lowest = 0;
    for (index_t e = 0; e < routing.sizes.experts; ++e) {
      if (direction[e] == 0) continue;
      (direction[e] > 0 ? of_highest : of_lowest) += d_logits(token, e);
      d_logits(token, e) = 0;
    }
    d_logits(token, extremes(token, 0)) += of_highest;
    d_logits(token, extremes(token, 1)) += of_lowest;
  }
};

} // namespace detail

/// Pushes chosen experts up or down in every token, before selection and gate.
///
/// State: `direction` [experts], 1: steer towards, -1: away, 0 (as it is made): leave. Write it with `set`, which refuses
/// more forced experts than a token has entries. Everything is computed in the compute type: what `hard` adds would be
/// lost in a 16-bit logit. Source: router steering of multilingual routing (arXiv 2510.04694), from a third-party text.
/// \throws kokomo::Error 106 unless -1 <= strength <= 1, margin >= 0 and noise >= 0
struct Steering {
  using slot = slots::adjust;

  SteeringMode mode = SteeringMode::soft;
  float strength = 0.5f; ///< soft: lambda, -1 .. 1
  float margin = 0;      ///< hard: distance from the largest logit; give one where scores saturate
  float noise = 1e-6f;   ///< hard: deviation of |N(0, noise^2)|, added to the distance
  std::uint64_t seed = 0;

  template <class T, class Exec> struct State {
    OwnedVector<index_t, Exec> direction;

    State() = default;
    State(Allocator<Exec> const& allocate, Steering const&, Sizes const& sizes) {
      allocate(direction, "kokomo::Steering::direction", sizes.experts);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const { f(Name{prefix, "direction"}, direction); }
  };
  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> slope; ///< [tokens, experts] soft: d std(z) / d z
    Matrix<index_t, Exec> extremes;   ///< [tokens, 2] hard: experts of the largest and the smallest logit

    Saved(detail::Arena& arena, Steering const& policy, Sizes const& sizes) {
      bool const soft = policy.mode == SteeringMode::soft;
      slope = arena.matrix<compute_t<T>, Exec>(soft ? sizes.tokens : 0, sizes.experts);
      extremes = arena.matrix<index_t, Exec>(soft ? 0 : sizes.tokens, 2);
    }
  };

  void check(Sizes const&) const {
    detail::require(strength >= -1 && strength <= 1, 106, "Steering strength = ", strength, ", expected -1 to 1");
    detail::require(margin >= 0, 106, "Steering margin = ", margin, ", expected >= 0");
    detail::require(noise >= 0, 106, "Steering noise = ", noise, ", expected >= 0");
  }

  /// Writes the direction of all experts: towards those of `promote`, away from those of `suppress`.
  /// \param sizes the layer's: Layer::sizes()
  /// \throws kokomo::Error 106 for ids outside the experts or in both lists, 102 in `hard` mode for more promoted experts
  ///         than a token has entries: some would be left out, and nothing else could be chosen
  /// \note copies from the host and waits for it; not for use within a call
  template <class State, class Exec>
  void set(Exec const& exec, State const& state, std::vector<index_t> const& promote,
           std::vector<index_t> const& suppress, Sizes const& sizes) const {
    std::vector<index_t> direction(static_cast<std::size_t>(sizes.experts), 0);
    auto const mark = [&](std::vector<index_t> const& experts, index_t sign) {
      for (index_t const e : experts) {
        detail::require(e >= 0 && e < sizes.experts, 106, "steered expert ", e, ", expected 0 to ", sizes.experts - 1);
        detail::require(direction[std::size_t(e)] * sign >= 0, 106, "expert ", e,
                        " is promoted and suppressed, expected one of both");
        direction[std::size_t(e)] = sign;
      }
    };
    mark(promote, 1);
    mark(suppress, -1);
    auto const forced = std::count(direction.begin(), direction.end(), 1);
    detail::require(mode == SteeringMode::soft || forced <= sizes.per_token, 102, "hard steering towards ", forced,
                    " experts, expected at most the ", sizes.per_token, " of a token");
    Kokkos::View<index_t const*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged> const source(direction.data(),
                                                                                          direction.size());
    Kokkos::deep_copy(exec, state.direction, source);
    exec.fence("kokomo::Steering::set");
  }

  template <class T, class Exec>
  void adjust(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, State<T, Exec> const& state,
              Nothing const&, Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved) const {
    using C = compute_t<T>;
    if (mode == SteeringMode::soft)
      detail::for_each(exec, "kokomo::Steering::soft", routing.sizes.tokens,
                       detail::SteerSoftly<T, Exec>{routing, state.direction, C(strength), logits, saved.slope});
    else
      detail::for_each(
          exec, "kokomo::Steering::hard", routing.sizes.tokens,
          detail::SteerHard<T, Exec>{routing, state.direction, C(margin), C(noise), seed, logits, saved.extremes});
  }

  template <class T, class Exec>
  void adjust_backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, State<T, Exec> const& state,
                       Nothing const&, Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits,
                       Nothing const&, Write) const {
    if (mode == SteeringMode::soft)
      detail::for_each(exec, "kokomo::Steering::soft_backward", routing.sizes.tokens,
                       detail::SteerSoftlyBackward<T, Exec>{routing, state.direction, compute_t<T>(strength),
                                                            saved.slope, d_logits});
    else
      detail::for_each(exec, "kokomo::Steering::hard_backward", routing.sizes.tokens,
                       detail::SteerHardBackward<T, Exec>{routing, state.direction, saved.extremes, d_logits});
  }
};

} // namespace kokomo::inline v0

#endif
