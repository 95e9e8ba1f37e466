// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_BALANCE_COUNTS_HPP
#define KOKOMO_DETAIL_BALANCE_COUNTS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/ranking.hpp>
#include <kokomo/mass.hpp>

/// What balancing losses sum up over tokens: how often each column (an expert, or a group of them) was picked, and each
/// expert's mass. Tokens are cut into blocks of fixed size within each sequence; a block is summed by one thread, blocks
/// in order: the same bits for any number of threads.

namespace kokomo::inline v0::detail {

/// Which tokens share one sum.
struct LossScope {
  offset_t tokens = 0;
  offset_t sequence = 0; // tokens of one

  static constexpr offset_t block = 32;

  KOKKOS_FUNCTION offset_t blocks_per_sequence() const { return (sequence + block - 1) / block; }
  KOKKOS_FUNCTION offset_t of(offset_t token) const { return token / sequence; }
  KOKKOS_FUNCTION offset_t begin(offset_t b) const {
    return b / blocks_per_sequence() * sequence + b % blocks_per_sequence() * block;
  }
  KOKKOS_FUNCTION offset_t end(offset_t b) const {
    offset_t const last = Kokkos::min(tokens, (b / blocks_per_sequence() + 1) * sequence);
    return Kokkos::min(begin(b) + block, last);
  }
  offset_t sequences() const { return sequence == 0 ? 0 : (tokens + sequence - 1) / sequence; }
  offset_t blocks() const { return sequence == 0 ? 0 : sequences() * blocks_per_sequence(); }
};

/// Which experts are counted together: `size` consecutive ones, and all beyond `weighted` as the last column.
struct CountColumns {
  index_t columns = 0;
  index_t size = 1;
  index_t weighted = 0;

  KOKKOS_FUNCTION index_t of(index_t expert) const { return expert >= weighted ? columns - 1 : expert / size; }
};

/// The picks of a token are the k largest of its logits, without bias or groups, the first of equals.
struct OwnTopKPicks {
  int k;
  template <class T, class Exec, class F>
  KOKKOS_FUNCTION void of_token(Routing<T, Exec> const& routing, Assignment<T, Exec> const&, offset_t token,
                                F const& f) const {
    auto pick = ahead_of_all<compute_t<T>>();
    for (int j = 0; j < k; ++j) {
      pick = next_best(routing.row(token), routing.sizes.experts, pick);
      f(pick.index);
    }
  }
};

/// The pick of a token is the second largest of its logits.
struct SecondPick {
  template <class T, class Exec, class F>
  KOKKOS_FUNCTION void of_token(Routing<T, Exec> const& routing, Assignment<T, Exec> const&, offset_t token,
                                F const& f) const {
    index_t const n = routing.sizes.experts;
    f(next_best(routing.row(token), n, next_best(routing.row(token), n, ahead_of_all<compute_t<T>>())).index);
  }
};

/// The picks of a token are the experts that the layer chose for it.
struct ChosenPicks {
  template <class T, class Exec, class F>
  KOKKOS_FUNCTION void of_token(Routing<T, Exec> const&, Assignment<T, Exec> const& a, offset_t token,
                                F const& f) const {
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      if (a.expert[i] != none) f(a.expert[i]);
  }
};

/// Nothing is counted: for losses of the mass alone.
struct NoPicks {
  template <class T, class Exec, class F>
  KOKKOS_FUNCTION void of_token(Routing<T, Exec> const&, Assignment<T, Exec> const&, offset_t, F const&) const {}
};

/// Sums of one block of tokens.
template <class Picks, class Mass, class T, class Exec> struct SumBlock {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  LossScope scope;
  CountColumns columns;
  Picks picks;
  Matrix<C, Exec> mass;            // [tokens, experts]
  Matrix<C, Exec> block_mass;      // [blocks, experts]
  Matrix<offset_t, Exec> counts;   // [blocks, columns + 1], the last column counts tokens
  Matrix<offset_t, Exec> last_hit; // [blocks, columns] the token that hit a column last; empty: every pick counts

  KOKKOS_FUNCTION void operator()(offset_t b) const {
    index_t const n = routing.sizes.experts;
    for (index_t e = 0; e < n; ++e) block_mass(b, e) = 0;
    for (index_t c = 0; c <= columns.columns; ++c) counts(b, c) = 0;
    bool const once = last_hit.extent(0) > 0;
    for (index_t c = 0; once && c < columns.columns; ++c) last_hit(b, c) = none;
    for (offset_t t = scope.begin(b); t < scope.end(b); ++t) {
      if (routing.masked(t)) continue;
      ++counts(b, columns.columns);
      C* const p = &mass(t, 0);
      C* const sum = &block_mass(b, 0);
      write_mass<Mass>(routing, a, t, p);
      for (index_t e = 0; e < n; ++e) sum[e] += p[e];
      picks.of_token(routing, a, t, [&](index_t expert) {
        index_t const c = columns.of(expert);
        if (once && last_hit(b, c) == t) return;
        if (once) last_hit(b, c) = t;
        ++counts(b, c);
      });
    }
  }
};

/// Sums of the blocks of one sequence and column.
template <class In, class Out, class Exec> struct SumBlocks {
  Matrix<In const, Exec> blocks; // [sequences * blocks_per_sequence, columns]
  Matrix<Out, Exec> sums;        // [sequences, columns]
  offset_t blocks_per_sequence;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const columns = static_cast<offset_t>(sums.extent(1));
    offset_t const s = i / columns, c = i % columns;
    Out sum = 0;
    for (offset_t b = s * blocks_per_sequence; b < (s + 1) * blocks_per_sequence; ++b) sum += blocks(b, c);
    sums(s, c) = sum;
  }
};

/// Memory of these sums, in a tape.
template <class C, class Exec> struct BalanceSums {
  Matrix<C, Exec> mass;               ///< [tokens, experts] P of each token
  Matrix<C, Exec> mass_sum;           ///< [sequences, experts]
  Matrix<offset_t, Exec> counts;      ///< [sequences, columns + 1], the last column counts tokens
  Vector<offset_t, Exec> tokens;      ///< [sequences] unmasked ones of this process
  Matrix<C, Exec> block_mass;         ///< [blocks, experts]
  Matrix<offset_t, Exec> block_count; ///< [blocks, columns + 1]
  Matrix<offset_t, Exec> last_hit;    ///< [blocks, columns], where a token counts once a column

  BalanceSums(Arena& arena, LossScope const& scope, index_t experts, index_t columns, bool once)
      : mass(arena.matrix<C, Exec>(scope.tokens, experts)), mass_sum(arena.matrix<C, Exec>(scope.sequences(), experts)),
        counts(arena.matrix<offset_t, Exec>(scope.sequences(), columns + 1)),
        tokens(arena.vector<offset_t, Exec>(scope.sequences())),
        block_mass(arena.matrix<C, Exec>(scope.blocks(), experts)),
        block_count(arena.matrix<offset_t, Exec>(scope.blocks(), columns + 1)),
        last_hit(arena.matrix<offset_t, Exec>(once ? scope.blocks() : 0, columns)) {}
};

template <class C, class Exec> struct KeepTokens {
  BalanceSums<C, Exec> sums;
  KOKKOS_FUNCTION void operator()(offset_t s) const { sums.tokens[s] = sums.counts(s, sums.counts.extent(1) - 1); }
};

/// Fills `sums` from the logits and, for ChosenPicks, the Assignment.
template <class Mass, class T, class Exec, class Picks>
void sum_up(Exec const& exec, char const* label, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
            LossScope const& scope, CountColumns const& columns, Picks const& picks,
            BalanceSums<compute_t<T>, Exec> const& sums) {
  using C = compute_t<T>;
  for_each(exec, label, scope.blocks(),
           SumBlock<Picks, Mass, T, Exec>{routing, a, scope, columns, picks, sums.mass, sums.block_mass,
                                          sums.block_count, sums.last_hit});
  auto const per_sequence = scope.sequences() == 0 ? 0 : scope.blocks_per_sequence();
  for_each(exec, label, offset_t(sums.mass_sum.size()),
           SumBlocks<C, C, Exec>{sums.block_mass, sums.mass_sum, per_sequence});
  for_each(exec, label, offset_t(sums.counts.size()),
           SumBlocks<offset_t, offset_t, Exec>{sums.block_count, sums.counts, per_sequence});
  for_each(exec, label, scope.sequences(), KeepTokens<C, Exec>{sums});
}

/// Entropy of a distribution of n experts, in nats; 0 ln 0 = 0.
template <class C> KOKKOS_FUNCTION C entropy(C const* p, index_t n) {
  C sum = 0;
  for (index_t e = 0; e < n; ++e)
    if (p[e] > C(0)) sum -= p[e] * Kokkos::log(p[e]);
  return sum;
}

/// Each token's entropy, 0 for a masked one.
template <class T, class Exec> struct TokenEntropy {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Matrix<C const, Exec> mass;
  Vector<C, Exec> entropies; // [tokens]
  KOKKOS_FUNCTION void operator()(offset_t token) const {
    entropies[token] = routing.masked(token) ? C(0) : entropy(&mass(token, 0), routing.sizes.experts);
  }
};

/// loss[0] += factor * the sum of all terms, in order.
template <class C, class Exec> struct AddLoss {
  Matrix<C, Exec> term;
  C factor;
  Vector<C, Exec> loss;
  KOKKOS_FUNCTION void operator()(offset_t) const {
    C sum = 0;
    for (std::size_t i = 0; i < term.extent(0) * term.extent(1); ++i) sum += term.data()[i];
    loss[0] += factor * sum;
  }
};

} // namespace kokomo::inline v0::detail

#endif
