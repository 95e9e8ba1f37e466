// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_BUDGET_LOSS_HPP
#define KOKOMO_BALANCER_BUDGET_LOSS_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/balance_counts.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {

/// What the layers of one BudgetLoss share: costs, and what has been spent since the last reset.
template <class Exec> struct Budget {
  OwnedVector<double, Exec> cost;     ///< [experts] of visiting an expert; the caller fills it in
  OwnedVector<double, Exec> spent;    ///< [1] sum over layers and tokens of sum_e cost_e p_e
  OwnedVector<offset_t, Exec> tokens; ///< [1] of all layers

  Budget() = default;
  Budget(Exec const& exec, index_t experts) {
    Allocator<Exec> const allocate(exec);
    allocate(cost, "kokomo::Budget::cost", experts);
    allocate(spent, "kokomo::Budget::spent", 1);
    allocate(tokens, "kokomo::Budget::tokens", 1);
  }

  /// Before the first layer of a forward pass. Asynchronous on exec.
  void reset(Exec const& exec) const {
    detail::fill(exec, "kokomo::Budget::reset", spent.data(), offset_t(spent.extent(0)), 0);
    detail::fill(exec, "kokomo::Budget::reset", tokens.data(), offset_t(tokens.extent(0)), 0);
  }
};

namespace detail {

template <class C, class Exec> struct Spend {
  BalanceSums<C, Exec> sums;
  Budget<Exec> budget;
  KOKKOS_FUNCTION void operator()(offset_t) const {
    if (sums.tokens.extent(0) == 0) return;
    double spent = 0;
    for (std::size_t e = 0; e < budget.cost.extent(0); ++e) spent += budget.cost[e] * double(sums.mass_sum(0, e));
    budget.spent[0] += spent;
    budget.tokens[0] += sums.tokens[0];
  }
};

template <class Exec> struct OverBudget {
  Budget<Exec> budget;
  double target;
  KOKKOS_FUNCTION double operator()() const {
    return budget.tokens[0] > 0 ? budget.spent[0] / double(budget.tokens[0]) - target : 0;
  }
};

template <class C, class Exec> struct BudgetValue {
  OverBudget<Exec> over;
  double coefficient;
  Vector<C, Exec> loss;
  KOKKOS_FUNCTION void operator()(offset_t) const { loss[0] = C(coefficient * over() * over()); }
};

template <class T, class Exec> struct BudgetGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  BalanceSums<C, Exec> sums;
  OverBudget<Exec> over;
  double coefficient;
  Matrix<C, Exec> d_logits;
  KOKKOS_FUNCTION void operator()(offset_t token) const {
    if (routing.masked(token)) return;
    C const factor = C(2 * coefficient * over() / double(over.budget.tokens[0]));
    SoftmaxMass::add_gradient(
        routing.row(token), routing.sizes.experts, static_cast<C const*>(&sums.mass(token, 0)),
        [&](index_t e) { return C(over.budget.cost[e]); }, factor, &d_logits(token, 0));
  }
};

} // namespace detail

/// Holds the mean cost of a token, over all layers together, at a target:
///
///     loss = coefficient * (mean over layers and tokens of sum_e cost_e p_e - target)^2,   p = softmax(z)
///
/// Which layers spend the budget is left to them. With cost (1, 0) of a big and a small expert it is Duo-LLM's loss. Used
/// as PooledLoss is: all layers hold the same Budget; `budget.reset(exec)`, all forwards, `value(exec, loss)`, all
/// backwards, on one execution space instance. A layer's own `loss` stays zero.
/// Source: notes on Duo-LLM (arXiv 2410.10846); models::DuoLlmTraining is the whole layer.
/// \throws kokomo::Error 106 for a budget of another number of experts
template <class Exec> struct BudgetLoss {
  float coefficient = 1;
  float target = 0.5f;
  Budget<Exec> budget{};

  template <class T, class E> struct Saved {
    detail::BalanceSums<compute_t<T>, E> sums;

    Saved(detail::Arena& arena, BudgetLoss const&, Sizes const& sizes)
        : sums(arena, {sizes.tokens, sizes.tokens}, sizes.experts, 0, false) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(offset_t(budget.cost.extent(0)) == sizes.experts, 106, "BudgetLoss budget has ",
                    budget.cost.extent(0), " costs, expected ", sizes.experts);
  }

  template <class T, class State>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a, State const&,
               Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const&) const {
    detail::sum_up<SoftmaxMass>(exec, "kokomo::BudgetLoss::sum", routing, a,
                                {routing.sizes.tokens, routing.sizes.tokens}, {}, detail::NoPicks{}, saved.sums);
    detail::for_each(exec, "kokomo::BudgetLoss::spend", 1, detail::Spend<compute_t<T>, Exec>{saved.sums, budget});
  }
  /// The loss of the layers that have run since the last reset, to loss[0]. Asynchronous on exec.
  template <class C> void value(Exec const& exec, OwnedVector<C, Exec> const& loss) const {
    detail::for_each(exec, "kokomo::BudgetLoss::value", 1,
                     detail::BudgetValue<C, Exec>{{budget, double(target)}, double(coefficient), loss});
  }
  template <class T>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const&,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    detail::for_each(
        exec, "kokomo::BudgetLoss::backward", routing.sizes.tokens,
        detail::BudgetGradient<T, Exec>{routing, saved.sums, {budget, double(target)}, double(coefficient), d_logits});
  }
};

} // namespace kokomo::inline v0

#endif
