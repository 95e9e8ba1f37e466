// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_POOLED_LOSS_HPP
#define KOKOMO_BALANCER_POOLED_LOSS_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/balance_counts.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {

/// Sums of a PooledLoss over all layers of a model: Views, so that every layer's policy holds the same ones.
template <class Exec> struct LossPool {
  OwnedVector<offset_t, Exec> counts; ///< [experts + 1] picks; the last element counts tokens
  OwnedVector<double, Exec> mass;     ///< [experts] sum of the probabilities

  LossPool() = default;
  LossPool(Exec const& exec, index_t experts) {
    Allocator<Exec> const allocate(exec);
    allocate(counts, "kokomo::LossPool::counts", experts + 1);
    allocate(mass, "kokomo::LossPool::mass", experts);
  }

  /// Before the first layer of a forward pass. Asynchronous on exec.
  void reset(Exec const& exec) const {
    detail::fill(exec, "kokomo::LossPool::reset", counts.data(), offset_t(counts.extent(0)), 0);
    detail::fill(exec, "kokomo::LossPool::reset", mass.data(), offset_t(mass.extent(0)), 0);
  }
};

namespace detail {

template <class C, class Exec> struct AddToPool {
  BalanceSums<C, Exec> sums; // of one sequence
  LossPool<Exec> pool;
  KOKKOS_FUNCTION void operator()(offset_t e) const {
    if (sums.counts.extent(0) == 0) return; // no tokens
    pool.counts[e] += sums.counts(0, e);
    if (std::size_t(e) < pool.mass.extent(0)) pool.mass[e] += double(sums.mass_sum(0, e));
  }
};

template <class C, class Exec> struct PoolValue {
  LossPool<Exec> pool;
  double factor;
  Vector<C, Exec> loss;
  KOKKOS_FUNCTION void operator()(offset_t) const {
    std::size_t const experts = pool.mass.extent(0);
    auto const tokens = double(pool.counts[experts]);
    double sum = 0;
    for (std::size_t e = 0; e < experts; ++e) sum += double(pool.counts[e]) * pool.mass[e];
    loss[0] = tokens > 0 ? C(factor * double(experts) * sum / tokens / tokens) : C(0);
  }
};

template <class T, class Exec> struct PooledGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  BalanceSums<C, Exec> sums;
  LossPool<Exec> pool;
  double factor;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (routing.masked(token)) return;
    index_t const experts = routing.sizes.experts;
    auto const tokens = double(pool.counts[experts]);
    C const scale = C(factor * double(experts) / tokens / tokens);
    SoftmaxMass::add_gradient(
        routing.row(token), experts, static_cast<C const*>(&sums.mass(token, 0)),
        [&](index_t e) { return C(pool.counts[e]); }, scale, &d_logits(token, 0));
  }
};

} // namespace detail

/// The load balancing loss over all layers at once, as transformers' `load_balancing_loss_func` has it: counts,
/// probabilities and tokens are summed over layers before they are divided, so that one layer may offset another.
///
///     loss = coefficient * E * sum_e (sum_l c_le / n) (sum_l sum_t p_lte / n),   n = tokens of all layers together
///
/// All layers get a copy of the policy, and so the same pool. A training step: `pool.reset(exec)`; forward of every
/// layer, each once; `value(exec, loss)`; backward of every layer. A layer's own `loss` stays zero: the value is known
/// after the last layer. All on one execution space instance, or fenced by the caller.
/// \throws kokomo::Error 102 unless 1 <= top_k <= experts, 106 for a pool of another number of experts
template <class Exec> struct PooledLoss {
  float coefficient = 1e-2f;
  int top_k = 2;
  LossPool<Exec> pool{};

  template <class T, class E> struct Saved {
    detail::BalanceSums<compute_t<T>, E> sums;

    Saved(detail::Arena& arena, PooledLoss const&, Sizes const& sizes)
        : sums(arena, {sizes.tokens, sizes.tokens}, sizes.experts, sizes.experts, false) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(top_k >= 1 && top_k <= sizes.experts, 102, "PooledLoss top_k = ", top_k,
                    ", expected 1 <= top_k <= ", sizes.experts);
    detail::require(offset_t(pool.mass.extent(0)) == sizes.experts, 106, "PooledLoss pool has ", pool.mass.extent(0),
                    " experts, expected ", sizes.experts);
  }

  template <class T, class State>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const&) const {
    index_t const experts = routing.sizes.experts;
    detail::sum_up<SoftmaxMass>(exec, "kokomo::PooledLoss::sum", routing, a,
                                {routing.sizes.tokens, routing.sizes.tokens}, {experts, 1, experts},
                                detail::OwnTopKPicks{top_k}, saved.sums);
    detail::for_each(exec, "kokomo::PooledLoss::pool", experts + 1,
                     detail::AddToPool<compute_t<T>, Exec>{saved.sums, pool});
  }

  /// The loss of the layers that have run since the last reset, to loss[0]. Asynchronous on exec.
  template <class C> void value(Exec const& exec, OwnedVector<C, Exec> const& loss) const {
    detail::for_each(exec, "kokomo::PooledLoss::value", 1, detail::PoolValue<C, Exec>{pool, double(coefficient), loss});
  }

  template <class T>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    detail::for_each(exec, "kokomo::PooledLoss::backward", routing.sizes.tokens,
                     detail::PooledGradient<T, Exec>{routing, saved.sums, pool, double(coefficient), d_logits});
  }
};

} // namespace kokomo::inline v0

#endif
