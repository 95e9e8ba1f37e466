// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_EXPERT_CHOICE_HPP
#define KOKOMO_ROUTER_EXPERT_CHOICE_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/entries.hpp>
#include <kokomo/detail/kth_largest.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/ranking.hpp>
#include <kokomo/detail/sequences.hpp>
#include <kokomo/error.hpp>

#include <algorithm>
#include <cmath>

namespace kokomo::inline v0 {

/// What a selector that needs the whole sequence does in inference, where later tokens are not known yet.
enum class InferenceChoice {
  best,            ///< the same as in training
  above_threshold, ///< every expert takes the tokens whose score is above a threshold: no token looks at another
  predicted        ///< the same with what PredictedScorer predicts in place of the score
};

namespace detail {

/// Scores by expert, [experts, tokens], so that an expert reads its tokens in a row. NaN marks what may not be taken.
template <class Score, class T, class Exec> struct ScoreByExpert {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Matrix<C, Exec> scores;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const* const z = routing.row(token);
    auto const row = Score::row(z, routing.sizes.experts);
    bool const masked = routing.masked(token);
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      scores(e, token) =
          masked || !routing.selectable(e) ? Kokkos::Experimental::quiet_NaN_v<C> : rankable(Score::value(row, z[e]));
  }
};

/// The same of predictions, the second half of the logits.
template <class T, class Exec> struct PredictionByExpert {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Matrix<C, Exec> scores;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    index_t const n = routing.sizes.experts;
    for (index_t e = 0; e < n; ++e)
      scores(e, token) = routing.masked(token) || !routing.selectable(e) ? Kokkos::Experimental::quiet_NaN_v<C>
                                                                         : rankable(routing.logits(token, n + e));
  }
};

/// What an expert takes of a sequence: scores above `bound`, and those equal to it up to and including token `last`.
template <class C, class Exec> struct ChoiceBounds {
  Matrix<C, Exec> bound;       // [sequences, experts]
  Matrix<offset_t, Exec> last; // [sequences, experts]

  KOKKOS_FUNCTION bool takes(offset_t sequence, index_t expert, offset_t token, C score) const {
    C const b = bound(sequence, expert);
    return score > b || (score == b && token <= last(sequence, expert));
  }
};

template <class C, class Exec> struct BoundChoice {
  Matrix<C, Exec> scores;
  Sequences sequences;
  offset_t places;
  ChoiceBounds<C, Exec> bounds;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const experts = offset_t(scores.extent(0));
    offset_t const s = i / experts, e = i % experts, begin = sequences.begin(s), n = sequences.end(s) - begin;
    C const* const score = &scores(e, begin);
    C const bound = kth_largest<C>(ArrayValues<C>{score}, n, places);
    offset_t left = places; // for those that equal the bound
    for (offset_t t = 0; t < n; ++t) left -= score[t] > bound ? 1 : 0;
    offset_t last = begin - 1;
    for (offset_t t = 0; t < n && left > 0; ++t)
      if (score[t] == bound) --left, last = begin + t;
    bounds.bound(s, e) = bound;
    bounds.last(s, e) = last;
  }
};

/// Whether an expert takes a token: by its bounds, or a score above a threshold.
template <class C, class Exec> struct TakesBest {
  Matrix<C, Exec> scores;
  Sequences sequences;
  ChoiceBounds<C, Exec> bounds;

  KOKKOS_FUNCTION bool operator()(offset_t token, index_t e) const {
    return bounds.takes(sequences.of(token), e, token, scores(e, token));
  }
};
template <class C, class Exec> struct TakesAbove {
  Matrix<C, Exec> scores;
  C threshold;

  KOKKOS_FUNCTION bool operator()(offset_t token, index_t e) const { return scores(e, token) > threshold; }
};

template <class Takes, class T, class Exec> struct TakenEntries {
  Takes takes;
  Assignment<T, Exec> a;

  KOKKOS_FUNCTION offset_t count(offset_t token) const {
    offset_t taken = 0;
    for (index_t e = 0; e < a.experts; ++e) taken += takes(token, e) ? 1 : 0;
    return taken;
  }
  KOKKOS_FUNCTION offset_t enter(offset_t token, offset_t entry) const {
    for (index_t e = 0; e < a.experts; ++e)
      if (takes(token, e)) a.choose(entry++, e);
    return entry;
  }
};

template <class Exec, class Takes, class T>
void enter_taken(Exec const& exec, Takes const& takes, Assignment<T, Exec> const& a,
                 Vector<offset_t, Exec> const& counts) {
  enter_in_token_order(exec, "kokomo::ExpertChoice::enter", TakenEntries<Takes, T, Exec>{takes, a}, a, counts);
}

} // namespace detail

/// Experts choose tokens: of each sequence, every expert takes the C tokens with its largest scores,
///
///     C = max(1, places > 0 ? places : ceil(factor * n / E)),   n tokens of a sequence
///
/// so that loads are equal by construction and a token has any number of experts, none included. Scores are those of
/// the gate's score function; ties go to the smaller token. Masked tokens are not taken. With one expert and raw scores
/// this is the token selection of Mixture-of-Depths.
///
/// Not causal: which tokens an expert takes depends on all of the sequence. `InferenceChoice::above_threshold` is, and so is
/// `predicted`.
/// Source: google/flaxformer ExpertsChooseMaskedRouter (docs/policies/router/expert_choice.md).
/// \throws kokomo::Error 108 for negative settings, or where neither places nor factor is positive; 101 for predictions that
///         the scorer does not have
struct ExpertChoice {
  static constexpr bool causal = false;
  static constexpr bool balances_itself = true;

  double factor = 1;                ///< >= 0, of the load that one expert a token would give
  offset_t places = 0;              ///< >= 0, tokens an expert takes of a sequence, in place of `factor`
  offset_t tokens_per_sequence = 0; ///< >= 0; 0: experts choose among the whole batch
  InferenceChoice inference = InferenceChoice::best;
  double threshold = 0; ///< of the score or prediction, for all but InferenceChoice::best

  template <class T, class Exec> struct Scratch {
    Matrix<compute_t<T>, Exec> scores; // [experts, tokens]
    detail::ChoiceBounds<compute_t<T>, Exec> bounds;
    Vector<offset_t, Exec> counts; // [blocks of tokens]

    Scratch(detail::Arena& arena, ExpertChoice const& policy, Sizes const& sizes)
        : scores(arena.matrix<compute_t<T>, Exec>(sizes.experts, sizes.tokens)) {
      offset_t const sequences = policy.sequences(sizes).count();
      bounds.bound = arena.matrix<compute_t<T>, Exec>(sequences, sizes.experts);
      bounds.last = arena.matrix<offset_t, Exec>(sequences, sizes.experts);
      counts = arena.vector<offset_t, Exec>(detail::grouping_blocks(sizes.tokens));
    }
  };

  void check(Sizes const& sizes) const {
    detail::require(inference != InferenceChoice::predicted || sizes.columns == 2 * sizes.experts, 101,
                    "ExpertChoice by predictions reads ", 2 * sizes.experts,
                    " columns of logits, expected those of the scorer: ", sizes.columns, " (PredictedScorer)");
    detail::require(factor >= 0 && places >= 0 && tokens_per_sequence >= 0, 108,
                    "ExpertChoice settings must not be negative: factor = ", factor, ", places = ", places,
                    ", tokens_per_sequence = ", tokens_per_sequence);
    detail::require(factor > 0 || places > 0, 108,
                    "ExpertChoice has no size: set one of places and factor to a positive value");
  }

  /// Tokens that an expert takes of each sequence that has as many.
  offset_t limit(Sizes const& sizes) const {
    double const n = double(sequences(sizes).length);
    return std::max(offset_t(1),
                    places > 0 ? places : offset_t(std::ceil(std::min(n, factor * n / double(sizes.experts)))));
  }

  bool causal_in(Mode mode) const { return mode == Mode::inference && inference != InferenceChoice::best; }
  offset_t entries_per_token(Sizes const& sizes) const { return sizes.experts; }
  offset_t entries(Sizes const& sizes) const {
    offset_t const pairs = sizes.tokens * sizes.experts;
    if (inference != InferenceChoice::best) return pairs;
    return std::min(pairs, sequences(sizes).count() * limit(sizes) * sizes.experts);
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    bool const by_threshold = routing.mode == Mode::inference && inference != InferenceChoice::best;
    if (by_threshold && inference == InferenceChoice::predicted)
      detail::for_each(exec, "kokomo::ExpertChoice::prediction", a.tokens,
                       detail::PredictionByExpert<T, Exec>{routing, scratch.scores});
    else
      detail::for_each(exec, "kokomo::ExpertChoice::score", a.tokens,
                       detail::ScoreByExpert<GateScore, T, Exec>{routing, scratch.scores});
    if (by_threshold)
      return detail::enter_taken(exec, detail::TakesAbove<C, Exec>{scratch.scores, C(threshold)}, a, scratch.counts);
    auto const sequences = this->sequences(routing.sizes);
    detail::for_each(exec, "kokomo::ExpertChoice::bound", sequences.count() * a.experts,
                     detail::BoundChoice<C, Exec>{scratch.scores, sequences, limit(routing.sizes), scratch.bounds});
    detail::enter_taken(exec, detail::TakesBest<C, Exec>{scratch.scores, sequences, scratch.bounds}, a, scratch.counts);
  }

private:
  detail::Sequences sequences(Sizes const& sizes) const { return {sizes.tokens, tokens_per_sequence}; }
};

} // namespace kokomo::inline v0

#endif
