// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_HASH_HPP
#define KOKOMO_ROUTER_HASH_HPP

#include <kokomo/argument.hpp>
#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct SelectByTable {
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  Vector<offset_t const, Exec> token_ids;
  OwnedMatrix<index_t, Exec> table; // [vocabulary, k]

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    auto const k = static_cast<int>(table.extent(1));
    offset_t const first = token * k;
    a.token_offsets[token] = first;
    if (token == a.tokens) return;
    bool const masked = routing.masked(token);
    offset_t const id = masked ? 0 : token_ids[token];
    bool const known = id >= 0 && id < static_cast<offset_t>(table.extent(0));
    for (int j = 0; j < k; ++j) {
      index_t chosen = known && !masked ? table(id, j) : none;
      bool const valid = chosen >= 0 && chosen < routing.sizes.experts;
      if (!valid && !masked && chosen != none) chosen = none, Kokkos::atomic_inc(&routing.status->invalid_ids);
      a.choose(first + j, chosen);
    }
    if (!known && !masked) Kokkos::atomic_inc(&routing.status->invalid_ids);
  }
};

} // namespace detail

/// The experts of a token are a fixed function of its id: row `token_ids[t]` of a table. Logits do not matter to the
/// choice, though a gate may still weigh by them (DeepSeek-V4's first layers do).
///
/// State: `table` [vocabulary, k], expert ids; `none` (-1) routes nowhere. A token id outside the table, and an expert
/// id outside the experts, routes nowhere and is counted in Status::invalid_ids. Source: hash layers, ParlAI
/// projects/params_vs_compute/hash_ladder; transformers deepseek_v4.
/// \throws kokomo::Error 102 unless 1 <= k <= experts, 104 unless vocabulary >= 1
struct HashTable {
  int k = 1;               ///< experts a token
  offset_t vocabulary = 0; ///< token ids, rows of the table

  template <class T, class Exec> struct State {
    OwnedMatrix<index_t, Exec> table;

    State() = default;
    State(Allocator<Exec> const& allocate, HashTable const& policy, Sizes const&) {
      allocate(table, "kokomo::HashTable::table", policy.vocabulary, policy.k);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const { f(Name{prefix, "table"}, table); }
  };
  template <class T, class Exec> struct Inputs {
    VectorArgument<offset_t const, Exec> token_ids{}; ///< [tokens]

    template <class F> void for_each(F&& f) const { f(Name{"", "token_ids"}, token_ids); }
  };

  offset_t entries_per_token(Sizes const&) const { return k; }
  void check(Sizes const& sizes) const {
    detail::require(k >= 1 && k <= sizes.experts, 102, "k = ", k,
                    " experts a token, expected 1 <= k <= ", sizes.experts);
    detail::require(vocabulary >= 1, 104, "vocabulary = ", vocabulary, ", expected at least 1 token id");
  }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    (void)inputs.token_ids.checked("inputs.selector.token_ids", {sizes.tokens});
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, State<T, Exec> const& state,
              Inputs<T, Exec> const& inputs, Assignment<T, Exec> const& a, Nothing const&) const {
    auto const ids = inputs.token_ids.checked("inputs.selector.token_ids", {a.tokens});
    detail::for_each(exec, "kokomo::HashTable::select", a.tokens + 1,
                     detail::SelectByTable<T, Exec>{routing, a, ids, state.table});
  }
};

} // namespace kokomo::inline v0

#endif
