// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_SINKHORN_HPP
#define KOKOMO_DETAIL_SINKHORN_HPP

#include <kokomo/detail/arena.hpp>
#include <kokomo/detail/exponential.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/routing.hpp>

namespace kokomo::inline v0::detail {

/// What ends the iteration before its bound.
enum class SinkhornStop {
  column_scaling, ///< mean over experts of the change of exp(column potential) is below the tolerance
  marginals       ///< the largest error of a column sum, as a share of it, is below the tolerance (row sums are exact)
};

template <class C> struct SinkhornSettings {
  int iterations; // at most
  C tolerance;
  C log_epsilon; // epsilon is added to what a marginal is divided by; -infinity: none
  SinkhornStop stop;
};

/// Tokens whose share in the column sums one thread adds up.
inline constexpr offset_t sinkhorn_block = 64;

/// Entropic transport between tokens and experts in log space: of all plans with given row and column sums,
///
///     plan = exp(scores + row potential + column potential)
///
/// is the one with the largest <plan, scores> + entropy. Scores are the affinities (or minus the cost) over the
/// regularisation. A row or column of mass zero (log mass -infinity) is left out. Everything stays finite for finite
/// scores, whatever their size.
template <class C, class Exec> struct SinkhornPlan {
  Matrix<C, Exec> scores;       // [tokens, experts]
  Vector<C, Exec> log_row;      // [tokens] logarithm of the row sums
  Vector<C, Exec> log_column;   // [experts]
  Vector<C, Exec> row;          // [tokens] potentials
  Vector<C, Exec> column;       // [experts]
  Matrix<C, Exec> partial;      // [blocks, experts]
  Vector<C, Exec> change;       // [experts]
  Vector<offset_t, Exec> count; // [2] tokens and experts that take part
  Vector<index_t, Exec> done;   // [1]

  SinkhornPlan() = default;
  SinkhornPlan(Arena& arena, offset_t tokens, index_t experts)
      : scores(arena.matrix<C, Exec>(tokens, experts)), log_row(arena.vector<C, Exec>(tokens)),
        log_column(arena.vector<C, Exec>(experts)), row(arena.vector<C, Exec>(tokens)),
        column(arena.vector<C, Exec>(experts)),
        partial(arena.matrix<C, Exec>((tokens + sinkhorn_block - 1) / sinkhorn_block, experts)),
        change(arena.vector<C, Exec>(experts)), count(arena.vector<offset_t, Exec>(2)),
        done(arena.vector<index_t, Exec>(1)) {}

  offset_t tokens() const { return static_cast<offset_t>(scores.extent(0)); }
  offset_t experts() const { return static_cast<offset_t>(scores.extent(1)); }

  KOKKOS_FUNCTION C log_plan(offset_t token, offset_t e) const { return scores(token, e) + row[token] + column[e]; }
};

/// A score that arithmetic can go on with: NaN as the smallest one, infinities as very large ones.
template <class C> KOKKOS_FUNCTION C finite_score(C value) {
  constexpr C large = C(1e30);
  return value > -large ? (value < large ? value : large) : -large;
}

/// log(exp(a) + exp(b)); b may be -infinity.
template <class C> KOKKOS_FUNCTION C log_add(C a, C b) {
  return b > a ? b + Kokkos::log1p(Kokkos::exp(a - b)) : a + Kokkos::log1p(Kokkos::exp(b - a));
}

/// log sum_i exp(a[i] + b[i]); -infinity if all terms vanish. In eight sums, so that the loop becomes vector code.
template <class C> KOKKOS_FUNCTION C log_sum_exp(C const* a, C const* b, offset_t n) {
  constexpr int lanes = 8;
  C max = -Kokkos::Experimental::infinity_v<C>;
  for (offset_t i = 0; i < n; ++i) max = a[i] + b[i] > max ? a[i] + b[i] : max;
  if (!(max > -Kokkos::Experimental::infinity_v<C>)) return max;
  C sum[lanes] = {};
  offset_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) sum[lane] += exp_of_negative(a[i + lane] + b[i + lane] - max);
  for (int lane = 0; i < n; ++i, ++lane) sum[lane] += exp_of_negative(a[i] + b[i] - max);
  return max + Kokkos::log(((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7])));
}

template <class C, class Exec> struct ResetSinkhorn {
  SinkhornPlan<C, Exec> p;
  KOKKOS_FUNCTION void operator()(offset_t e) const {
    p.column[e] = p.log_column[e] > -Kokkos::Experimental::infinity_v<C> ? C(0) : p.log_column[e];
    if (e == 0) p.done[0] = 0;
  }
};

/// The row potentials of a block of tokens, and its share of the column sums that follow from them. With rows exact no
/// entry of the plan exceeds its row's mass: this exponential cannot overflow.
template <class C, class Exec> struct SinkhornRows {
  SinkhornPlan<C, Exec> p;
  C log_epsilon;
  bool always; // also when the iteration has ended

  KOKKOS_FUNCTION void operator()(offset_t block) const {
    if (p.done[0] != 0 && !always) return;
    auto const n = static_cast<offset_t>(p.scores.extent(1));
    auto const tokens = static_cast<offset_t>(p.scores.extent(0));
    C* const sum = &p.partial(block, 0);
    C const* const column = p.column.data();
    for (offset_t e = 0; e < n; ++e) sum[e] = 0;
    for (offset_t t = block * sinkhorn_block; t < Kokkos::min(tokens, (block + 1) * sinkhorn_block); ++t) {
      constexpr C nothing = -Kokkos::Experimental::infinity_v<C>;
      C const* const score = &p.scores(t, 0);
      C const total = log_sum_exp(score, column, n);
      bool const takes_part = p.log_row[t] > nothing && total > nothing;
      C const potential = takes_part ? p.log_row[t] - log_add(total, log_epsilon) : nothing;
      p.row[t] = potential;
      if (!takes_part) continue;
      for (offset_t e = 0; e < n; ++e) sum[e] += exp_of_negative(Kokkos::min(score[e] + potential + column[e], C(0)));
    }
  }
};

template <class C, class Exec> struct SinkhornColumns {
  SinkhornPlan<C, Exec> p;
  SinkhornSettings<C> settings;

  KOKKOS_FUNCTION void operator()(offset_t e) const {
    if (p.done[0] != 0) return;
    p.change[e] = 0;
    if (!(p.log_column[e] > -Kokkos::Experimental::infinity_v<C>)) return;
    C sum = 0;
    for (std::size_t block = 0; block < p.partial.extent(0); ++block) sum += p.partial(block, e);
    if (!(sum > C(0))) sum = Kokkos::Experimental::norm_min_v<C>; // too small to be seen: it grows by as much as it may
    C const old = p.column[e];
    C const next = p.log_column[e] + old - log_add(Kokkos::log(sum), settings.log_epsilon + old);
    p.column[e] = next;
    p.change[e] = settings.stop == SinkhornStop::column_scaling
                      ? Kokkos::abs(Kokkos::exp(next) - Kokkos::exp(old))
                      : Kokkos::abs(sum / Kokkos::exp(p.log_column[e]) - C(1));
  }
};

template <class C, class Exec> struct EndSinkhorn {
  SinkhornPlan<C, Exec> p;
  SinkhornSettings<C> settings;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    C sum = 0, max = 0;
    offset_t count = 0;
    for (std::size_t e = 0; e < p.change.extent(0); ++e) {
      sum += p.change[e];
      max = Kokkos::max(max, p.change[e]);
      count += p.log_column[e] > -Kokkos::Experimental::infinity_v<C> ? 1 : 0;
    }
    C const change = settings.stop == SinkhornStop::column_scaling ? sum / C(Kokkos::max(count, offset_t(1))) : max;
    if (change < settings.tolerance) p.done[0] = 1;
  }
};

/// Finds the potentials of `p`, whose scores and log masses are set: rows, then columns, in turns. After it columns are
/// exact; `finish_rows` makes rows exact instead. The number of launches depends on the settings alone; those behind
/// the end of the iteration return at once.
template <class C, class Exec>
void sinkhorn(Exec const& exec, SinkhornPlan<C, Exec> const& p, SinkhornSettings<C> const& settings,
              bool finish_rows = false) {
  if (p.tokens() == 0) return;
  auto const blocks = static_cast<offset_t>(p.partial.extent(0));
  for_each(exec, "kokomo::sinkhorn::reset", p.experts(), ResetSinkhorn<C, Exec>{p});
  for (int i = 0; i < settings.iterations; ++i) {
    for_each(exec, "kokomo::sinkhorn::rows", blocks, SinkhornRows<C, Exec>{p, settings.log_epsilon, false});
    for_each(exec, "kokomo::sinkhorn::columns", p.experts(), SinkhornColumns<C, Exec>{p, settings});
    for_each(exec, "kokomo::sinkhorn::end", 1, EndSinkhorn<C, Exec>{p, settings});
  }
  if (finish_rows)
    for_each(exec, "kokomo::sinkhorn::rows", blocks, SinkhornRows<C, Exec>{p, settings.log_epsilon, true});
}

/// The adjoint of the converged plan's two conditions on its sums, for a block of tokens: row multipliers from column
/// ones, and this block's share of what the column multipliers are made of.
template <class C, class Exec> struct SinkhornAdjointRows {
  SinkhornPlan<C, Exec> p;
  Matrix<C, Exec> d; // [tokens, experts] gradient of the logarithm of the plan
  Vector<C, Exec> row, column;

  KOKKOS_FUNCTION void operator()(offset_t block) const {
    if (p.done[0] != 0) return;
    auto const n = static_cast<offset_t>(p.scores.extent(1));
    auto const tokens = static_cast<offset_t>(p.scores.extent(0));
    for (offset_t e = 0; e < n; ++e) p.partial(block, e) = 0;
    for (offset_t t = block * sinkhorn_block; t < Kokkos::min(tokens, (block + 1) * sinkhorn_block); ++t) {
      row[t] = 0;
      if (!(p.row[t] > -Kokkos::Experimental::infinity_v<C>)) continue;
      C sum = 0, mass = 0;
      for (offset_t e = 0; e < n; ++e) {
        C const plan = Kokkos::exp(p.log_plan(t, e));
        sum += d(t, e) - plan * column[e];
        mass += plan;
      }
      C const multiplier = mass > C(0) ? sum / mass : C(0);
      row[t] = multiplier;
      for (offset_t e = 0; e < n; ++e) p.partial(block, e) += d(t, e) - Kokkos::exp(p.log_plan(t, e)) * multiplier;
    }
  }
};

template <class C, class Exec> struct SinkhornAdjointColumns {
  SinkhornPlan<C, Exec> p;
  Vector<C, Exec> column;

  KOKKOS_FUNCTION void operator()(offset_t e) const {
    if (p.done[0] != 0) return;
    p.change[e] = 0;
    if (!(p.log_column[e] > -Kokkos::Experimental::infinity_v<C>)) return;
    C sum = 0;
    for (std::size_t block = 0; block < p.partial.extent(0); ++block) sum += p.partial(block, e);
    C const next = sum / Kokkos::exp(p.log_column[e]);
    p.change[e] = Kokkos::abs(next - column[e]);
    column[e] = next;
  }
};

/// Done where the largest change is small beside the largest value: gradients have any scale.
template <class C, class Exec> struct EndSinkhornAdjoint {
  SinkhornPlan<C, Exec> p;
  Vector<C, Exec> column;
  C tolerance;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    C change = 0, size = 0;
    for (std::size_t e = 0; e < p.change.extent(0); ++e) {
      change = Kokkos::max(change, p.change[e]);
      if (p.log_column[e] > -Kokkos::Experimental::infinity_v<C>) size = Kokkos::max(size, Kokkos::abs(column[e]));
    }
    if (change <= tolerance * size) p.done[0] = 1;
  }
};

/// Gradient of the scores, in place of that of the logarithm of the plan.
template <class C, class Exec> struct SinkhornAdjoint {
  SinkhornPlan<C, Exec> p;
  Matrix<C, Exec> d;
  Vector<C, Exec> row, column;

  KOKKOS_FUNCTION void operator()(offset_t t) const {
    bool const takes_part = p.row[t] > -Kokkos::Experimental::infinity_v<C>;
    for (std::size_t e = 0; e < p.scores.extent(1); ++e)
      d(t, e) = takes_part && p.column[e] > -Kokkos::Experimental::infinity_v<C>
                    ? d(t, e) - Kokkos::exp(p.log_plan(t, offset_t(e))) * (row[t] + column[e])
                    : C(0);
  }
};

/// The gradient of the converged plan by the implicit function theorem: with P the plan, W = d the gradient of log P,
///
///     dS = W - P (a_i + b_j),   sum_j P_ij (a_i + b_j) = sum_j W_ij for every i,   the same over i for every j
///
/// a and b by alternating between the two sets of equations, which converges as the forward iteration does.
/// \param[in,out] d gradient of log(plan), then that of the scores
/// \param row,column memory for a [tokens] and b [experts]
template <class C, class Exec>
void sinkhorn_backward(Exec const& exec, SinkhornPlan<C, Exec> const& p, Matrix<C, Exec> const& d,
                       Vector<C, Exec> const& row, Vector<C, Exec> const& column, int iterations, C tolerance) {
  if (p.tokens() == 0) return;
  auto const blocks = static_cast<offset_t>(p.partial.extent(0));
  fill(exec, "kokomo::sinkhorn::reset", column.data(), p.experts(), 0);
  fill(exec, "kokomo::sinkhorn::reset", p.done.data(), 1, 0);
  for (int i = 0; i < iterations; ++i) {
    for_each(exec, "kokomo::sinkhorn::adjoint_rows", blocks, SinkhornAdjointRows<C, Exec>{p, d, row, column});
    for_each(exec, "kokomo::sinkhorn::adjoint_columns", p.experts(), SinkhornAdjointColumns<C, Exec>{p, column});
    for_each(exec, "kokomo::sinkhorn::adjoint_end", 1, EndSinkhornAdjoint<C, Exec>{p, column, tolerance});
  }
  for_each(exec, "kokomo::sinkhorn::adjoint", p.tokens(), SinkhornAdjoint<C, Exec>{p, d, row, column});
}

/// Tokens and experts that no mask excludes.
template <class T, class Exec> struct CountParticipants {
  Routing<T, Exec> routing;
  Vector<offset_t, Exec> count;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    offset_t tokens = 0, experts = 0;
    for (offset_t t = 0; t < routing.sizes.tokens; ++t) tokens += routing.masked(t) ? 0 : 1;
    for (index_t e = 0; e < routing.sizes.experts; ++e) experts += routing.selectable(e) ? 1 : 0;
    count[0] = tokens;
    count[1] = experts;
  }
};

/// Equal masses for all that take part: rows 1, columns tokens / experts; or, for a plan of mass one, a tokens-th of it.
template <class T, class Exec> struct EqualMarginals {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  SinkhornPlan<C, Exec> p;
  bool of_mass_one;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    constexpr C nothing = -Kokkos::Experimental::infinity_v<C>;
    C const tokens = C(p.count[0]), experts = C(p.count[1]);
    if (i < routing.sizes.tokens)
      p.log_row[i] = routing.masked(i) ? nothing : of_mass_one ? -Kokkos::log(tokens) : C(0);
    if (i < routing.sizes.experts)
      p.log_column[i] = !routing.selectable(static_cast<index_t>(i)) ? nothing
                        : of_mass_one                                ? -Kokkos::log(experts)
                                                                     : Kokkos::log(tokens / experts);
  }
};

template <class T, class Exec>
void equal_marginals(Exec const& exec, Routing<T, Exec> const& routing, SinkhornPlan<compute_t<T>, Exec> const& p,
                     bool of_mass_one) {
  for_each(exec, "kokomo::sinkhorn::count", 1, CountParticipants<T, Exec>{routing, p.count});
  for_each(exec, "kokomo::sinkhorn::marginals", Kokkos::max(p.tokens(), p.experts()),
           EqualMarginals<T, Exec>{routing, p, of_mass_one});
}

} // namespace kokomo::inline v0::detail

#endif
