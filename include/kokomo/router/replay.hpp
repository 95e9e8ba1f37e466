// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_REPLAY_HPP
#define KOKOMO_ROUTER_REPLAY_HPP

#include <kokomo/check.hpp>
#include <kokomo/detail/aliasing.hpp>
#include <kokomo/router/given.hpp>
#include <kokomo/router/top_k.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct RecordChoice {
  Assignment<T, Exec> a;
  Matrix<index_t, Exec> experts;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    auto const k = static_cast<offset_t>(experts.extent(1));
    offset_t const first = a.token_offsets[token], count = a.token_offsets[token + 1] - first;
    for (offset_t j = 0; j < k; ++j) experts(token, j) = j < count ? a.expert[first + j] : none;
  }
};

template <class Base, class Exec> struct ReplayInputs : Base {
  MatrixArgument<index_t, Exec> record{};       ///< [tokens, most entries a token], written
  MatrixArgument<index_t const, Exec> replay{}; ///< the same; given: it is the choice

  template <class F> void for_each(F&& f) const {
    visit_arguments(static_cast<Base const&>(*this), f);
    f(Name{"", "record"}, record);
    f(Name{"", "replay"}, replay);
  }
};

} // namespace detail

/// A selector that records what it chooses and, where a recording is given, chooses that instead: a rollout's routing
/// replayed in training, a router frozen for an experiment. The gate weighs by the logits of the call, with gradients.
///
/// Inputs beside the inner selector's: `record` and `replay`, both [tokens, k] and optional, k the most entries of a
/// token. Missing entries are recorded as `none` (-1). In a replay, ids outside the experts route nowhere and are counted
/// in Status::invalid_ids. The inner selector runs only where nothing is replayed.
template <class Selector = TopK<>> struct Replay {
  Selector inner{};

  static constexpr bool causal = detail::is_causal<Selector>();
  bool causal_in(Mode mode) const { return detail::is_causal_in(inner, mode); }
  static constexpr bool balances_itself = kokomo::detail::balances_itself<Selector>();
  static constexpr bool takes_no_loss = kokomo::detail::takes_no_loss<Selector>();

  template <class T, class Exec> using State = detail::OfInner<state_t<Selector, T, Exec>>;
  template <class T, class Exec> using Scratch = detail::OfInner<scratch_t<Selector, T, Exec>>;
  template <class T, class Exec> using Inputs = detail::ReplayInputs<inputs_t<Selector, T, Exec>, Exec>;

  offset_t entries_per_token(Sizes const& sizes) const { return inner.entries_per_token(sizes); }
  void check(Sizes const& sizes) const { detail::check_settings(inner, sizes); }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    offset_t const k = entries_per_token(sizes);
    if (inputs.record.given()) (void)inputs.record.checked("inputs.selector.record", {sizes.tokens, k});
    if (inputs.replay.given()) (void)inputs.replay.checked("inputs.selector.replay", {sizes.tokens, k});
    if constexpr (detail::ChecksInputs<Selector, T, Exec>) inner.template check_inputs<T, Exec>(inputs, sizes);
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, State<T, Exec> const& state,
              Inputs<T, Exec> const& inputs, Assignment<T, Exec> const& a, Scratch<T, Exec> const& scratch) const {
    offset_t const k = entries_per_token(routing.sizes);
    if (inputs.replay.given()) {
      auto const experts = inputs.replay.checked("inputs.selector.replay", {a.tokens, k});
      detail::for_each(exec, "kokomo::Replay::replay", a.tokens + 1, detail::SelectGiven<T, Exec>{routing, a, experts});
    } else {
      inner.template select<GateScore>(exec, routing, state, inputs, a, scratch);
    }
    if (inputs.record.given())
      detail::for_each(
          exec, "kokomo::Replay::record", a.tokens,
          detail::RecordChoice<T, Exec>{a, inputs.record.checked("inputs.selector.record", {a.tokens, k})});
  }
};

} // namespace kokomo::inline v0

#endif
