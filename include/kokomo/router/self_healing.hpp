// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_SELF_HEALING_HPP
#define KOKOMO_ROUTER_SELF_HEALING_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/check.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/router/top_k.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Experts that have not failed and that nothing else masks.
template <class T, class Exec> struct HealthyMask {
  Routing<T, Exec> routing;
  Vector<index_t const, Exec> failed;
  Vector<index_t, Exec> mask;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const e = static_cast<index_t>(i);
    mask[e] = failed[e] == 0 && routing.selectable(e) ? 1 : 0;
  }
};

/// Compares what a token took with what it would have taken if no expert had failed.
template <class T, class Exec> struct CountReroutes {
  Assignment<T, Exec> a, wanted;
  Status* status;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    offset_t rerouted = 0, took = 0, wants = 0;
    for (offset_t i = wanted.token_offsets[token]; i < wanted.token_offsets[token + 1]; ++i)
      wants += wanted.expert[i] != none ? 1 : 0;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      if (a.expert[i] == none) continue;
      ++took;
      bool meant = false;
      for (offset_t j = wanted.token_offsets[token]; j < wanted.token_offsets[token + 1]; ++j)
        meant = meant || wanted.expert[j] == a.expert[i];
      rerouted += meant ? 0 : 1;
    }
    if (rerouted > 0) Kokkos::atomic_add(&status->rerouted, rerouted);
    if (wants > 0 && took == 0) Kokkos::atomic_inc(&status->escalated);
  }
};

struct ClearStatus {
  Status* status;
  KOKKOS_FUNCTION void operator()(offset_t) const { *status = Status{}; }
};

} // namespace detail

/// A selector whose failed experts are not selected: their tokens go to the next best, and every such reroute is
/// counted. A token that finds no expert at all is escalated: it has no entries, shared experts and the caller's
/// residual are what is left for it, and Status::escalated says so.
///
/// State: `failed` [experts], 0 (as it is made): healthy; the caller's monitors write it between calls. Beside it the
/// inner selector's. Healthy experts' tokens, and a layer all of whose experts are healthy, are routed as without this.
/// It selects twice, which is how reroutes are exact for any selector. Source: Self-Healing Router (arXiv 2603.01548),
/// reconstructed from its abstract.
template <class Selector = TopK<>> struct SelfHealing {
  Selector inner{};

  static constexpr bool causal = detail::is_causal<Selector>();
  bool causal_in(Mode mode) const { return detail::is_causal_in(inner, mode); }
  static constexpr bool balances_itself = kokomo::detail::balances_itself<Selector>();
  static constexpr bool takes_no_loss = kokomo::detail::takes_no_loss<Selector>();

  template <class T, class Exec> struct State {
    state_t<Selector, T, Exec> inner;
    OwnedVector<index_t, Exec> failed;

    State() = default;
    State(Allocator<Exec> const& allocate, SelfHealing const& policy, Sizes const& sizes)
        : inner(detail::make<state_t<Selector, T, Exec>>(allocate, policy.inner, sizes)) {
      allocate(failed, "kokomo::SelfHealing::failed", sizes.experts);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      inner.for_each(f, prefix);
      f(Name{prefix, "failed"}, failed);
    }
  };
  template <class T, class Exec> using Inputs = inputs_t<Selector, T, Exec>;
  template <class T, class Exec> struct Scratch {
    scratch_t<Selector, T, Exec> inner;
    Assignment<T, Exec> wanted;  ///< what would be chosen if no expert had failed
    Vector<index_t, Exec> mask;  ///< [experts]
    Vector<Status, Exec> status; ///< [1] of that selection: not reported twice

    Scratch(detail::Arena& arena, SelfHealing const& policy, Sizes const& sizes)
        : inner(detail::make<scratch_t<Selector, T, Exec>>(arena, policy.inner, sizes)),
          wanted(arena, sizes.tokens, sizes.experts, sizes.entries), mask(arena.vector<index_t, Exec>(sizes.experts)),
          status(arena.vector<Status, Exec>(1)) {}
  };

  offset_t entries_per_token(Sizes const& sizes) const { return inner.entries_per_token(sizes); }
  offset_t entries(Sizes const& sizes) const requires(detail::BoundsBatch<Selector>) { return inner.entries(sizes); }
  void check(Sizes const& sizes) const { detail::check_settings(inner, sizes); }
  template <class T, class Exec>
  void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const
      requires(detail::ChecksInputs<Selector, T, Exec>) {
    inner.template check_inputs<T, Exec>(inputs, sizes);
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, State<T, Exec> const& state,
              Inputs<T, Exec> const& inputs, Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    detail::for_each(exec, "kokomo::SelfHealing::mask", a.experts,
                     detail::HealthyMask<T, Exec>{routing, state.failed, scratch.mask});
    detail::for_each(exec, "kokomo::SelfHealing::reset", 1, detail::ClearStatus{scratch.status.data()});
    auto would = routing, healthy = routing;
    would.status = scratch.status.data();
    healthy.expert_mask = scratch.mask;
    inner.template select<GateScore>(exec, would, state.inner, inputs, scratch.wanted, scratch.inner);
    inner.template select<GateScore>(exec, healthy, state.inner, inputs, a, scratch.inner);
    detail::for_each(exec, "kokomo::SelfHealing::count", a.tokens,
                     detail::CountReroutes<T, Exec>{a, scratch.wanted, routing.status});
  }
};

} // namespace kokomo::inline v0

#endif
