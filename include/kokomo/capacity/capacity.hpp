// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_CAPACITY_CAPACITY_HPP
#define KOKOMO_CAPACITY_CAPACITY_HPP

#include <kokomo/argument.hpp>
#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/random.hpp>
#include <kokomo/detail/ranking.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>
#include <kokomo/slots.hpp>

#include <algorithm>
#include <cmath>

namespace kokomo::inline v0 {

/// Who is served first where an expert has more entries than places.
enum class CapacityOrder {
  position,       ///< all first choices in token order, then all second choices, ... (Switch, GShard, NLLB)
  token_priority, ///< the same, but tokens in order of falling best score (V-MoE's batch-prioritised routing)
  score,          ///< the entries with the largest scores, whatever choice they were (drop_policy probs)
  token_position, ///< the first entries in token order, whatever choice they were (drop_policy position)
  random,         ///< the entries with the largest random numbers (DeepSpeed's top-1)
  /// A token takes one place: that of its first choice, or in later rounds of the next one that still has room, where
  /// tokens queue in their order (Switch's no token left behind)
  no_token_left_behind
};

/// How many whole places a part of one makes.
enum class CapacityRounding {
  up,  ///< one more: Megatron, DeepSpeed, NLLB
  down ///< none: tensorflow/mesh
};

namespace detail {

/// Sorts order[0, n) by `before` (heap sort: in place, no recursion, the same on host and device).
template <class Before> KOKKOS_FUNCTION void heap_sort(index_t* order, offset_t n, Before const& before) {
  auto const swap = [order](offset_t i, offset_t j) {
    index_t const held = order[i];
    order[i] = order[j];
    order[j] = held;
  };
  auto const sift = [&](offset_t root, offset_t end) {
    for (offset_t child = 2 * root + 1; child < end; child = 2 * root + 1) {
      if (child + 1 < end && before(order[child], order[child + 1])) ++child;
      if (!before(order[root], order[child])) return;
      swap(root, child);
      root = child;
    }
  };
  for (offset_t i = n / 2; i-- > 0;) sift(i, n);
  for (offset_t end = n; end-- > 1;) {
    swap(0, end);
    sift(0, end);
  }
}

/// Scores the entries and notes which choice of its token each one is.
template <class Score, class T, class Exec> struct ScoreEntries {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  Vector<C, Exec> score;        // [entries] of the entry, or of its token's first choice
  Vector<index_t, Exec> choice; // [entries]
  CapacityOrder order;
  std::uint64_t seed;
  Matrix<C const, Exec> priority; // [tokens, experts] in place of random numbers, if given

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const* const z = routing.row(token);
    auto const row = Score::row(z, routing.sizes.experts);
    offset_t const begin = a.token_offsets[token];
    for (offset_t i = begin; i < a.token_offsets[token + 1]; ++i) {
      index_t const e = a.expert[order == CapacityOrder::token_priority ? begin : i];
      if (order != CapacityOrder::random)
        score[i] = e == none ? C(0) : rankable(Score::value(row, z[e]));
      else if (priority.data() != nullptr)
        score[i] = e == none ? C(0) : rankable(priority(token, e));
      else
        score[i] = static_cast<C>(uniform(seed, routing.step, token, e));
      choice[i] = static_cast<index_t>(i - begin);
    }
  }
};

/// Queues and their places: of each expert, or of each device's experts together.
struct Places {
  index_t experts_a_queue;
  index_t weighted;               // experts with weights
  offset_t with_weights, without; // places of a queue of the former, of the latter

  KOKKOS_FUNCTION offset_t of(offset_t queue) const { return queue < weighted ? with_weights : without; }
};

/// One queue is served, sequence by sequence; the rest is dropped.
template <class C, class T, class Exec> struct ServeQueue {
  Assignment<T, Exec> a;
  Vector<C, Exec> score;
  Vector<index_t, Exec> choice;
  Vector<index_t, Exec> queue; // [entries] scratch for the rows of each expert
  CapacityOrder order;
  Places all_places;
  offset_t sequence;

  KOKKOS_FUNCTION void operator()(offset_t q) const {
    offset_t const last = a.expert_offsets[(q + 1) * all_places.experts_a_queue];
    for (offset_t row = a.expert_offsets[q * all_places.experts_a_queue]; row < last;) {
      offset_t end = row;
      offset_t const within = a.token_of_row[row] / sequence;
      while (end < last && a.token_of_row[end] / sequence == within) ++end;
      serve(row, end - row, all_places.of(q));
      row = end;
    }
  }

  KOKKOS_FUNCTION void serve(offset_t first, offset_t n, offset_t places) const {
    if (n <= places) return;
    index_t* const entries = &queue[first];
    for (offset_t i = 0; i < n; ++i) entries[i] = a.entry_of_row[first + i];
    heap_sort(entries, n, *this);
    for (offset_t i = places; i < n; ++i) a.row[entries[i]] = none;
  }

  /// Whether entry i is served before entry j. Entries are in token order, which settles every tie.
  KOKKOS_FUNCTION bool operator()(index_t i, index_t j) const {
    bool const by_choice = order == CapacityOrder::position || order == CapacityOrder::token_priority;
    bool const by_position = order == CapacityOrder::position || order == CapacityOrder::token_position;
    if (by_choice && choice[i] != choice[j]) return choice[i] < choice[j];
    if (!by_position && score[i] != score[j]) return score[i] > score[j];
    return i < j;
  }
};

/// One round in which tokens without a place ask for one at the expert of their next choice.
template <class T, class Exec> struct ServeRound {
  Assignment<T, Exec> a;
  Vector<index_t, Exec> choice;
  Vector<index_t, Exec> accepted; // [entries] 0 or 1
  index_t round;
  Places all_places;
  offset_t sequence;

  KOKKOS_FUNCTION void operator()(offset_t e) const {
    offset_t const places = all_places.of(e);
    for (offset_t row = a.expert_offsets[e]; row < a.expert_offsets[e + 1];) {
      offset_t end = row, taken = 0;
      offset_t const within = a.token_of_row[row] / sequence;
      for (; end < a.expert_offsets[e + 1] && a.token_of_row[end] / sequence == within; ++end)
        taken += accepted[a.entry_of_row[end]];
      for (; row < end; ++row) {
        index_t const i = a.entry_of_row[row];
        if (choice[i] != round || taken == places || has_place(i)) continue;
        accepted[i] = 1; // nobody else asks for this token in this round
        ++taken;
      }
    }
  }
  KOKKOS_FUNCTION bool has_place(index_t i) const {
    for (index_t j = 1; j <= choice[i]; ++j)
      if (accepted[i - j] != 0) return true;
    return false;
  }
};

template <class T, class Exec> struct DropUnaccepted {
  Assignment<T, Exec> a;
  Vector<index_t, Exec> accepted;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      if (accepted[i] == 0) a.row[i] = none;
  }
};

} // namespace detail

/// Every expert takes at most C entries; what is over is dropped: chosen, counted, not executed.
///
///     C = max(minimum, places > 0 ? places : fraction > 0 ? ceil(fraction * n) : ceil(factor * n * k / E))
///
/// with n the tokens of a sequence (of the batch where `tokens_per_sequence` is 0), k the most entries a token has and
/// E the experts; `rounding` says whether ceil or floor. With `unweighted` = tau, experts with weights (N) take
/// factor n k tau / (tau N + Z) and those without (Z) a tau-th of that. With `devices` = D the E / D consecutive experts
/// of a device share one queue of factor n k / D places.
///
/// Each sequence has its own places. Scores are those of the gate's score function. A dropped entry keeps its expert in
/// the Assignment, its row is `none`; whether it keeps its share of the weights is the gate's `drops`. Not causal,
/// whatever the order: the type does not know the settings. Those under which no later token matters are fixed places in
/// the order token_position (`causal_in`), or position with one choice a token.
/// Source: Switch, GShard, V-MoE, Megatron (docs/policies/capacity/capacity.md).
/// \throws kokomo::Error 108 for negative settings, where none of places, fraction and factor is positive, or for `devices`
///         beside sequences, `unweighted` or no_token_left_behind; 103 for devices that do not divide the experts
struct Capacity {
  using slot = slots::capacity;
  static constexpr bool causal = false;

  CapacityOrder order = CapacityOrder::position;
  double factor = 0;                ///< >= 0, of the balanced load (double: ceil(1.2f * 10) would be 13)
  double fraction = 0;              ///< >= 0, of the tokens
  offset_t places = 0;              ///< >= 0, a fixed number
  offset_t minimum = 0;             ///< >= 0
  offset_t tokens_per_sequence = 0; ///< >= 0; 0: the whole batch is one queue
  std::uint64_t seed = 0;           ///< of CapacityOrder::random, with the call's step
  double inference_factor = 0;      ///< > 0: in place of factor in inference
  CapacityRounding rounding = CapacityRounding::up;
  double unweighted = 1; ///< > 0: tau, of factor
  index_t devices = 0;   ///< > 0: groups of consecutive experts, each with one queue

  /// No later token matters where places are fixed and tokens queue in their order.
  bool causal_in(Mode) const { return places > 0 && order == CapacityOrder::token_position; }

  template <class T, class Exec> struct Inputs {
    /// [tokens, experts] replaces the random numbers of CapacityOrder::random
    MatrixArgument<compute_t<T> const, Exec> priority{};

    template <class F> void for_each(F&& f) const { f(Name{"", "priority"}, priority); }
  };
  template <class T, class Exec> struct Scratch {
    Vector<compute_t<T>, Exec> score;
    Vector<index_t, Exec> choice;
    Vector<index_t, Exec> queue;

    Scratch(detail::Arena& arena, Capacity const&, Sizes const& sizes)
        : score(arena.vector<compute_t<T>, Exec>(sizes.entries)), choice(arena.vector<index_t, Exec>(sizes.entries)),
          queue(arena.vector<index_t, Exec>(sizes.entries)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(factor >= 0 && fraction >= 0 && places >= 0 && minimum >= 0 && tokens_per_sequence >= 0, 108,
                    "Capacity settings must not be negative: factor = ", factor, ", fraction = ", fraction,
                    ", places = ", places, ", minimum = ", minimum, ", tokens_per_sequence = ", tokens_per_sequence);
    detail::require(factor > 0 || fraction > 0 || places > 0, 108,
                    "Capacity has no size: set one of places, fraction and factor to a positive value");
    detail::require(inference_factor >= 0 && unweighted > 0 && devices >= 0, 108,
                    "Capacity inference_factor = ", inference_factor, ", unweighted = ", unweighted,
                    ", devices = ", devices, ", expected >= 0, > 0, >= 0");
    if (devices == 0) return;
    detail::require(sizes.experts % devices == 0, 103, "Capacity devices = ", devices, ", expected a divisor of the ",
                    sizes.experts, " experts");
    detail::require(tokens_per_sequence == 0 && unweighted == 1 && order != CapacityOrder::no_token_left_behind, 108,
                    "Capacity devices = ", devices,
                    ", expected 0 beside tokens_per_sequence, unweighted and "
                    "no_token_left_behind");
  }

  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    if (inputs.priority.given())
      (void)inputs.priority.checked("inputs.capacity.priority", {sizes.tokens, sizes.experts});
  }

  /// Entries an expert, or a device, takes of each sequence.
  /// \param[in] weighted for an expert with weights
  offset_t limit(Sizes const& sizes, Mode mode = Mode::training, bool weighted = true) const {
    double const n = double(tokens_per_sequence > 0 ? tokens_per_sequence : sizes.tokens);
    double const entries = n * double(sizes.per_token);
    offset_t limit = places;
    if (places == 0) { // no more than all: an infinite factor is no integer
      double const f = mode == Mode::inference && inference_factor > 0 ? inference_factor : factor;
      double const of_all = f * n * double(sizes.per_token);
      double const size = std::min(entries, fraction > 0 ? fraction * n : of_all / shares(sizes, weighted));
      limit = offset_t(rounding == CapacityRounding::up ? std::ceil(size) : std::floor(size));
    }
    return limit > minimum ? limit : minimum;
  }

  /// Marks what is over as not executed. `a` is grouped, its weights not yet written.
  template <class GateScore, class T, class Exec>
  void apply(Exec const& exec, Routing<T, Exec> const& routing, Inputs<T, Exec> const& inputs,
             Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    Matrix<C const, Exec> priority;
    if (inputs.priority.given())
      priority = inputs.priority.checked("inputs.capacity.priority", {routing.sizes.tokens, routing.sizes.experts});
    detail::for_each(
        exec, "kokomo::Capacity::score", a.tokens,
        detail::ScoreEntries<GateScore, T, Exec>{routing, a, scratch.score, scratch.choice, order, seed, priority});
    offset_t const sequence = tokens_per_sequence > 0 ? tokens_per_sequence : Kokkos::max(a.tokens, offset_t(1));
    detail::Places const limit{devices > 0 ? a.experts / devices : 1, devices > 0 ? devices : routing.sizes.weighted,
                               this->limit(routing.sizes, routing.mode),
                               this->limit(routing.sizes, routing.mode, false)};
    if (order != CapacityOrder::no_token_left_behind)
      return detail::for_each(
          exec, "kokomo::Capacity::serve", devices > 0 ? devices : a.experts,
          detail::ServeQueue<C, T, Exec>{a, scratch.score, scratch.choice, scratch.queue, order, limit, sequence});
    detail::fill(exec, "kokomo::Capacity::reset", scratch.queue.data(), a.entries(), 0);
    for (index_t round = 0; round < routing.sizes.per_token; ++round)
      detail::for_each(exec, "kokomo::Capacity::round", a.experts,
                       detail::ServeRound<T, Exec>{a, scratch.choice, scratch.queue, round, limit, sequence});
    detail::for_each(exec, "kokomo::Capacity::drop", a.tokens, detail::DropUnaccepted<T, Exec>{a, scratch.queue});
  }

private:
  /// Into how many parts a balanced load falls, of which a queue gets one.
  double shares(Sizes const& sizes, bool of_weighted) const {
    if (devices > 0) return double(devices);
    double const with = double(sizes.weighted), without = double(sizes.experts - sizes.weighted);
    return (unweighted * with + without) / (of_weighted ? unweighted : 1);
  }
};

} // namespace kokomo::inline v0

#endif
