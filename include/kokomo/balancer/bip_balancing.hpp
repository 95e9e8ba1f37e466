// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_BIP_BALANCING_HPP
#define KOKOMO_BALANCER_BIP_BALANCING_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/kth_largest.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/ranking.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {

/// When a batch's own scores reach the duals that it is selected with.
enum class DualUpdate {
  before_selection, ///< at once: already the first batch is balanced, and a token's experts depend on later tokens
  after_selection   ///< with the next batch: causal (quantile balancing)
};

namespace detail {

/// Scores of a batch, by token and by expert. NaN marks what takes no part.
template <class Score, class T, class Exec> struct ScoreBothWays {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Matrix<C, Exec> by_token, by_expert;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const* const z = routing.row(token);
    auto const row = Score::row(z, routing.sizes.experts);
    bool const masked = routing.masked(token);
    for (index_t e = 0; e < routing.sizes.experts; ++e) {
      C const score =
          masked || !routing.selectable(e) ? Kokkos::Experimental::quiet_NaN_v<C> : rankable(Score::value(row, z[e]));
      by_token(token, e) = score;
      by_expert(e, token) = score;
    }
  }
};

/// a[i] + b[i]
template <class C> struct SumValues {
  C const* a;
  C const* b;
  KOKKOS_FUNCTION C operator()(offset_t i) const { return a[i] + b[i]; }
};

/// The dual of a token's budget: its (k + 1)-th largest biased score.
template <class C, class Exec> struct TokenDual {
  Matrix<C, Exec> scores;
  Vector<C, Exec> bias;
  Vector<C, Exec> dual;
  offset_t k;
  bool clip;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    auto const n = offset_t(scores.extent(1));
    C value = kth_largest<C>(SumValues<C>{&scores(token, 0), bias.data()}, n, k + 1);
    if (clip) value = Kokkos::max(value, C(0));
    dual[token] = Kokkos::isfinite(value) ? value : C(0); // no such score: the budget does not bind
  }
};

/// The number of tokens that take part, and from it each expert's share, which is at least one.
template <class T, class Exec> struct CountPlaces {
  Routing<T, Exec> routing;
  Vector<offset_t, Exec> places;
  offset_t k, fixed;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    offset_t tokens = 0, experts = 0;
    for (offset_t t = 0; t < routing.sizes.tokens; ++t) tokens += routing.masked(t) ? 0 : 1;
    for (index_t e = 0; e < routing.sizes.experts; ++e) experts += routing.selectable(e) ? 1 : 0;
    places[0] = fixed > 0 ? fixed : k * tokens / Kokkos::max(experts, offset_t(1));
  }
};

/// The dual of an expert's capacity, as the bias -q: from the (places + 1)-th largest of score - token dual.
template <class C, class Exec> struct ExpertDual {
  Matrix<C, Exec> scores; // [experts, tokens]
  Vector<C, Exec> dual;   // [tokens]
  Vector<offset_t, Exec> places;
  Vector<C, Exec> bias; // out
  bool clip;

  KOKKOS_FUNCTION void operator()(offset_t e) const {
    auto const n = offset_t(scores.extent(1));
    C q = kth_largest<C>(DifferenceValues<C>{&scores(e, 0), dual.data()}, n, places[0] + 1);
    if (clip) q = Kokkos::max(q, C(0));
    bias[e] = Kokkos::isfinite(q) ? -q : C(0);
  }
};

/// Where score - token dual can lie for scores within [0, 1]: a token's dual is one of its biased scores, or zero.
template <class C, class Exec> struct DualRange {
  Vector<C, Exec> bias;
  Vector<C, Exec> range; // [2] lowest, width

  KOKKOS_FUNCTION void operator()(offset_t) const {
    C low = 0, high = 0;
    for (std::size_t e = 0; e < bias.extent(0); ++e) low = Kokkos::min(low, bias[e]), high = Kokkos::max(high, bias[e]);
    range[0] = -high - C(1);
    range[1] = high - low + C(2);
  }
};

/// The same from counts of equal bins over that range: the middle of the bin where the count from above passes the
/// places.
template <class C, class Exec> struct ExpertDualOfBins {
  Matrix<C, Exec> scores;
  Vector<C, Exec> dual;
  Vector<offset_t, Exec> places;
  Vector<C, Exec> range;
  Vector<C, Exec> bias;       // out
  Matrix<index_t, Exec> bins; // [experts, bins]
  bool clip;

  KOKKOS_FUNCTION void operator()(offset_t e) const {
    auto const n = offset_t(scores.extent(1)), count = offset_t(bins.extent(1));
    C const begin = range[0], width = range[1] / C(count);
    for (offset_t b = 0; b < count; ++b) bins(e, b) = 0;
    for (offset_t t = 0; t < n; ++t) {
      C const at = (scores(e, t) - dual[t] - begin) / width;
      if (at != at) continue;
      ++bins(e, at < C(0) ? 0 : at >= C(count) ? count - 1 : static_cast<offset_t>(at));
    }
    offset_t above = 0;
    offset_t bin = count - 1;
    for (; bin >= 0; --bin) {
      above += bins(e, bin);
      if (above > places[0]) break;
    }
    C q = bin >= 0 ? begin + (C(bin) + C(0.5)) * width : C(0);
    if (clip) q = Kokkos::max(q, C(0));
    bias[e] = -q;
  }
};

template <class C, class Exec> struct CopyVector {
  Vector<C, Exec> from, to;
  KOKKOS_FUNCTION void operator()(offset_t i) const { to[i] = from[i]; }
};

} // namespace detail

/// Balancing by the dual of a binary integer programme: at most k experts a token, at most k T / E tokens an expert.
/// In training each batch sharpens the duals q of the experts, `iterations` times
///
///     p_t = max(0, (k + 1)-th largest over e of s_te - q_e)
///     q_e = max(0, (k T / E + 1)-th largest over t of s_te - p_t)
///
/// and selection ranks s - q; weights never see q. k is what the selector takes of a token, s the gate's score, and the
/// state holds `bias` [experts] = -q. In inference q is frozen. `clip = false` leaves out max(0, .), `after_selection`
/// uses a batch's duals from the next one on, `bins` finds the experts' quantile in a histogram; all three together are
/// quantile balancing. Two forwards of one batch (recomputation) sharpen twice.
/// Not causal unless after_selection. Source: reconstructed from reviews and follow-up notes
/// (docs/policies/balancer/bip_balancing.md).
/// \throws kokomo::Error 106 unless iterations >= 1, bins is 0 or at least 2, places >= 0
struct BipBalancing {
  static constexpr bool causal = false;

  int iterations = 4; ///< >= 1, a batch
  bool clip = true;
  DualUpdate update = DualUpdate::before_selection;
  int bins = 0;        ///< 0: exact; else at least 2, of a histogram, for scores within [0, 1]
  offset_t places = 0; ///< >= 0, tokens an expert should take; 0: k T / E

  template <class T, class Exec> struct State {
    OwnedVector<compute_t<T>, Exec> bias; ///< [experts] -q

    State() = default;
    State(Allocator<Exec> const& allocate, BipBalancing const&, Sizes const& sizes) {
      allocate(bias, "kokomo::BipBalancing::bias", sizes.experts);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const { f(Name{prefix, "bias"}, bias); }
  };

  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> by_token;  ///< [tokens, experts] scores
    Matrix<compute_t<T>, Exec> by_expert; ///< [experts, tokens]
    Vector<compute_t<T>, Exec> dual;      ///< [tokens] p
    Vector<compute_t<T>, Exec> next;      ///< [experts] -q after this batch
    Vector<offset_t, Exec> places;        ///< [1]
    Vector<compute_t<T>, Exec> range;     ///< [2] of the histogram
    Matrix<index_t, Exec> bins;           ///< [experts, bins]

    Saved(detail::Arena& arena, BipBalancing const& policy, Sizes const& sizes)
        : by_token(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.experts)),
          by_expert(arena.matrix<compute_t<T>, Exec>(sizes.experts, sizes.tokens)),
          dual(arena.vector<compute_t<T>, Exec>(sizes.tokens)), next(arena.vector<compute_t<T>, Exec>(sizes.experts)),
          places(arena.vector<offset_t, Exec>(1)), range(arena.vector<compute_t<T>, Exec>(2)),
          bins(arena.matrix<index_t, Exec>(sizes.experts, policy.bins)) {}
  };

  /// In inference the duals are frozen.
  bool causal_in(Mode mode) const { return mode == Mode::inference || update == DualUpdate::after_selection; }
  bool moves_bias() const { return true; }
  void check(Sizes const&) const {
    detail::require(iterations >= 1, 106, "BipBalancing iterations = ", iterations, ", expected >= 1");
    detail::require(bins == 0 || bins >= 2, 106, "BipBalancing bins = ", bins, ", expected 0 or >= 2");
    detail::require(places >= 0, 106, "BipBalancing places = ", places, ", expected >= 0");
  }

  template <class T, class Exec> Vector<compute_t<T> const, Exec> bias(State<T, Exec> const& state) const {
    return state.bias;
  }

  template <class GateScore, class T, class Exec>
  void prepare(Exec const& exec, Routing<T, Exec> const& routing, State<T, Exec> const& state,
               Saved<T, Exec> const& saved) const {
    using C = compute_t<T>;
    offset_t const tokens = routing.sizes.tokens, experts = routing.sizes.experts, k = routing.sizes.per_token;
    if (routing.mode != Mode::training || tokens == 0) return;
    detail::for_each(exec, "kokomo::BipBalancing::score", tokens,
                     detail::ScoreBothWays<GateScore, T, Exec>{routing, saved.by_token, saved.by_expert});
    detail::for_each(exec, "kokomo::BipBalancing::places", 1,
                     detail::CountPlaces<T, Exec>{routing, saved.places, k, places});
    detail::for_each(exec, "kokomo::BipBalancing::begin", experts, detail::CopyVector<C, Exec>{state.bias, saved.next});
    for (int i = 0; i < iterations; ++i) {
      detail::for_each(exec, "kokomo::BipBalancing::token_dual", tokens,
                       detail::TokenDual<C, Exec>{saved.by_token, saved.next, saved.dual, k, clip});
      if (bins == 0) {
        detail::for_each(exec, "kokomo::BipBalancing::expert_dual", experts,
                         detail::ExpertDual<C, Exec>{saved.by_expert, saved.dual, saved.places, saved.next, clip});
      } else {
        detail::for_each(exec, "kokomo::BipBalancing::range", 1, detail::DualRange<C, Exec>{saved.next, saved.range});
        detail::for_each(exec, "kokomo::BipBalancing::expert_dual", experts,
                         detail::ExpertDualOfBins<C, Exec>{saved.by_expert, saved.dual, saved.places, saved.range,
                                                           saved.next, saved.bins, clip});
      }
    }
    if (update == DualUpdate::before_selection) keep<T>(exec, routing, state, saved);
  }

  template <class T, class Exec>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
               State<T, Exec> const& state, Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const&) const {
    if (update == DualUpdate::after_selection) keep<T>(exec, routing, state, saved);
  }

private:
  template <class T, class Exec>
  void keep(Exec const& exec, Routing<T, Exec> const& routing, State<T, Exec> const& state,
            Saved<T, Exec> const& saved) const {
    if (routing.mode == Mode::training && routing.sizes.tokens > 0)
      detail::for_each(exec, "kokomo::BipBalancing::keep", routing.sizes.experts,
                       detail::CopyVector<compute_t<T>, Exec>{saved.next, state.bias});
  }
};

} // namespace kokomo::inline v0

#endif
