// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_SWITCH_LOSS_HPP
#define KOKOMO_BALANCER_SWITCH_LOSS_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/balance_counts.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {

/// Which experts of a token a loss counts: the top_k largest of its logits, whatever biases, groups or noise made the
/// layer choose.
struct OwnTopK {};
/// Which experts of a token a loss counts: those that the layer chose, before capacity drops.
struct Chosen {};

/// Which expert of a token a loss counts: the second largest of its logits.
struct SecondChoice {};

/// Counts of this process alone.
struct LocalCounts {};

/// Experts that a loss counts together, and what a count is divided by.
struct LossGroups {
  index_t count = 0;    ///< D groups of consecutive experts with weights; 0: each expert its own
  bool once = false;    ///< a token counts once in a group, however many of its picks fall into it
  float picks = 0;      ///< expected picks (or, once, groups hit) of a token; 0: top_k if divide_by_k, else 1
  float zero_picks = 0; ///< > 0: experts without weights are one more group, with this many expected picks
  float unweighted = 1; ///< > 0: factor of the terms of experts without weights, each its own (MoE++'s tau)
};

namespace detail {

/// phi of each sequence and column, and the terms of the loss.
template <class C, class Exec> struct WeighCounts {
  BalanceSums<C, Exec> sums;
  Matrix<C, Exec> phi;  // [sequences, columns] scale * count / tokens
  Matrix<C, Exec> term; // [sequences, experts]
  CountColumns columns;
  C scale, zero_scale;
  bool has_zero;
  index_t weighted; // columns behind these have the factor
  C unweighted;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const experts = static_cast<offset_t>(term.extent(1));
    offset_t const s = i / experts;
    auto const e = static_cast<index_t>(i % experts);
    index_t const c = columns.of(e);
    C const value = weight(s, c);
    if (e == 0 || columns.of(e - 1) != c) phi(s, c) = value; // the column's first expert writes it
    offset_t const tokens = sums.tokens[s];
    term(s, e) = tokens > 0 ? value * (sums.mass_sum(s, e) / C(tokens)) : C(0);
  }
  KOKKOS_FUNCTION C weight(offset_t s, index_t c) const {
    offset_t const tokens = sums.counts(s, columns.columns);
    C const factor = has_zero && c == columns.columns - 1 ? zero_scale : c >= weighted ? unweighted * scale : scale;
    return tokens > 0 ? factor * C(sums.counts(s, c)) / C(tokens) : C(0);
  }
};

template <class Mass, class T, class Exec> struct MassGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  LossScope scope;
  CountColumns columns;
  BalanceSums<C, Exec> sums;
  Matrix<C const, Exec> phi; // [sequences, columns]
  C factor;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (routing.masked(token)) return;
    offset_t const s = scope.of(token);
    C const* const row = &phi(s, 0);
    Mass::add_gradient(
        routing.row(token), routing.sizes.experts, static_cast<C const*>(&sums.mass(token, 0)),
        [&](index_t e) { return row[columns.of(e)]; }, factor / C(sums.tokens[s]), &d_logits(token, 0));
  }
};

} // namespace detail

/// The balancing loss f P in all its published forms:
///
///     loss  = coefficient * mean over sequences of sum_e phi_e P_e
///     phi_e = D / picks * (picks of the group of e) / tokens,   D groups; without groups each expert is one, D = E
///     P_e   = mean over tokens of e's mass
///
/// phi is constant for the gradient. `picks` is 1, or top_k with `.divide_by_k`, or `groups.picks`. Masked tokens leave
/// every sum. Which settings make which published loss: kokomo/balancer/published_losses.hpp.
///
/// \tparam Picks  what is counted: OwnTopK, Chosen or SecondChoice
/// \tparam Mass   P of a token: SoftmaxMass, NormalizedMass<SigmoidScore>, RawMass<ReluScore>, RunnerUpMass, ...
/// \tparam Reduce void operator()(Exec, Matrix<offset_t, Exec> counts) const: enqueues on Exec the sum of the counts
///                [sequences, columns + 1] over all processes, in place; the last column counts tokens. P stays local.
/// \throws kokomo::Error 102 unless 1 <= top_k <= experts, 106 for settings out of range, 103 unless groups.count divides
///         the experts with weights
template <class Picks = OwnTopK, class Mass = SoftmaxMass, class Reduce = LocalCounts> struct SwitchLoss {
  using Distribution = Mass;

  float coefficient = 1e-2f;
  int top_k = 2;                    ///< picks counted a token (OwnTopK), and the k of divide_by_k
  bool divide_by_k = false;         ///< picks are shares of k
  offset_t tokens_per_sequence = 0; ///< 0: the whole batch is one
  LossGroups groups{};
  Reduce reduce{};

  template <class T, class Exec> struct Saved {
    detail::BalanceSums<compute_t<T>, Exec> sums;
    Matrix<compute_t<T>, Exec> phi;  ///< [sequences, columns]
    Matrix<compute_t<T>, Exec> term; ///< [sequences, experts]

    Saved(detail::Arena& arena, SwitchLoss const& policy, Sizes const& sizes)
        : sums(arena, policy.scope(sizes.tokens), sizes.experts, policy.columns(sizes).columns, policy.groups.once),
          phi(arena.matrix<compute_t<T>, Exec>(policy.scope(sizes.tokens).sequences(), policy.columns(sizes).columns)),
          term(arena.matrix<compute_t<T>, Exec>(policy.scope(sizes.tokens).sequences(), sizes.experts)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(top_k >= 1 && top_k <= sizes.experts, 102, "SwitchLoss top_k = ", top_k,
                    ", expected 1 <= top_k <= ", sizes.experts);
    detail::require(tokens_per_sequence >= 0, 106, "SwitchLoss tokens_per_sequence = ", tokens_per_sequence,
                    ", expected >= 0");
    detail::require(groups.count >= 0 && (groups.count == 0 || weighted(sizes) % groups.count == 0), 103,
                    "SwitchLoss groups.count = ", groups.count, ", expected a divisor of ", weighted(sizes),
                    " experts");
    detail::require(groups.picks >= 0 && groups.zero_picks >= 0, 106, "SwitchLoss groups.picks = ", groups.picks,
                    ", groups.zero_picks = ", groups.zero_picks, ", expected >= 0");
    detail::require(groups.count == 0 || groups.zero_picks > 0 || weighted(sizes) == sizes.experts, 103,
                    "SwitchLoss groups.count = ", groups.count,
                    ", expected zero_picks > 0 beside it: this layer has experts without weights");
    detail::require(groups.zero_picks == 0 || weighted(sizes) < sizes.experts, 106,
                    "SwitchLoss groups.zero_picks = ", groups.zero_picks,
                    ", expected 0: all experts of this layer have weights");
    detail::require(groups.unweighted > 0, 106, "SwitchLoss groups.unweighted = ", groups.unweighted, ", expected > 0");
    detail::require(groups.unweighted == 1 || (groups.count == 0 && groups.zero_picks == 0), 106,
                    "SwitchLoss groups.unweighted = ", groups.unweighted, ", expected 1 beside groups");
    if constexpr (std::is_same_v<Picks, SecondChoice>)
      detail::require(sizes.experts >= 2, 102, "SwitchLoss counts second choices of ", sizes.experts,
                      " experts, expected 2 or more");
  }

  template <class T, class Exec, class State>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    auto const scope = this->scope(routing.sizes.tokens);
    auto const columns = this->columns(routing.sizes);
    if constexpr (std::is_same_v<Picks, OwnTopK>)
      detail::sum_up<Mass>(exec, "kokomo::SwitchLoss::sum", routing, a, scope, columns, detail::OwnTopKPicks{top_k},
                           saved.sums);
    else if constexpr (std::is_same_v<Picks, SecondChoice>)
      detail::sum_up<Mass>(exec, "kokomo::SwitchLoss::sum", routing, a, scope, columns, detail::SecondPick{},
                           saved.sums);
    else
      detail::sum_up<Mass>(exec, "kokomo::SwitchLoss::sum", routing, a, scope, columns, detail::ChosenPicks{},
                           saved.sums);
    if constexpr (!std::is_same_v<Reduce, LocalCounts>) reduce(exec, saved.sums.counts);
    float const picks = groups.picks > 0 ? groups.picks : divide_by_k ? float(top_k) : 1.0f;
    C const scale = C(real_columns(routing.sizes)) / C(picks);
    C const zero_scale = groups.zero_picks > 0 ? C(1) / C(groups.zero_picks) : C(0);
    detail::for_each(exec, "kokomo::SwitchLoss::weigh", offset_t(saved.term.size()),
                     detail::WeighCounts<C, Exec>{
                         saved.sums, saved.phi, saved.term, columns, scale, zero_scale, groups.zero_picks > 0,
                         groups.unweighted == 1 ? columns.columns : weighted(routing.sizes), C(groups.unweighted)});
    detail::for_each(exec, "kokomo::SwitchLoss::add", 1,
                     detail::AddLoss<C, Exec>{saved.term, factor<C>(routing.sizes.tokens), loss});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::SwitchLoss::backward", routing.sizes.tokens,
                     detail::MassGradient<Mass, T, Exec>{routing, scope(routing.sizes.tokens), columns(routing.sizes),
                                                         saved.sums, saved.phi, factor<C>(routing.sizes.tokens),
                                                         d_logits});
  }

private:
  static index_t weighted(Sizes const& sizes) { return sizes.weighted > 0 ? sizes.weighted : sizes.experts; }
  /// Columns but that of the experts without weights.
  index_t real_columns(Sizes const& sizes) const {
    index_t const experts = groups.zero_picks > 0 ? weighted(sizes) : sizes.experts;
    return groups.count > 0 ? groups.count : experts;
  }
  detail::CountColumns columns(Sizes const& sizes) const {
    bool const zero = groups.zero_picks > 0;
    index_t const real = real_columns(sizes);
    index_t const size = groups.count > 0 ? weighted(sizes) / groups.count : 1;
    return {real + (zero ? 1 : 0), size, zero ? weighted(sizes) : sizes.experts};
  }
  detail::LossScope scope(offset_t tokens) const {
    return {tokens, tokens_per_sequence > 0 ? tokens_per_sequence : tokens};
  }
  template <class C> C factor(offset_t tokens) const {
    offset_t const sequences = scope(tokens).sequences();
    return sequences > 0 ? C(coefficient) / C(sequences) : C(0);
  }
};

} // namespace kokomo::inline v0

#endif
