// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_PLACEMENT_EXPERT_MAP_HPP
#define KOKOMO_PLACEMENT_EXPERT_MAP_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/sorted_grouping.hpp>
#include <kokomo/error.hpp>
#include <kokomo/routing.hpp>
#include <kokomo/slots.hpp>

#include <vector>

namespace kokomo::inline v0 {
namespace detail {

/// From the router's experts to the stored ones, token by token: entries of one token that meet in a stored expert become
/// one, whose weight is their sum.
template <class T, class Exec> struct MapEntries {
  using C = compute_t<T>;
  Assignment<T, Exec> chosen, executed;
  Vector<index_t const, Exec> slot_of_expert;
  Vector<index_t, Exec> carrier;
  index_t stored;
  bool merge;
  Status* status;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    offset_t const first = chosen.token_offsets[token];
    executed.token_offsets[token] = first;
    if (token == chosen.tokens) return;
    for (offset_t i = first; i < chosen.token_offsets[token + 1]; ++i) {
      executed.choose(i, none);
      executed.weight[i] = 0;
      carrier[i] = none;
      if (chosen.row[i] == none) continue;
      index_t const slot = slot_of(chosen.expert[i]);
      if (slot == none) {
        Kokkos::atomic_inc(&status->invalid_ids);
        continue;
      }
      offset_t const at = merge ? first_in(slot, first, i) : i;
      if (at == i) executed.choose(i, slot);
      executed.weight[at] += chosen.weight[i];
      carrier[i] = index_t(at);
    }
  }
  /// Experts without weights stand behind those with, before and after.
  KOKKOS_FUNCTION index_t slot_of(index_t expert) const {
    auto const mapped = index_t(slot_of_expert.extent(0));
    if (expert >= mapped) return expert - mapped + stored;
    index_t const slot = slot_of_expert[expert];
    return slot >= 0 && slot < stored ? slot : none;
  }
  KOKKOS_FUNCTION offset_t first_in(index_t slot, offset_t first, offset_t entry) const {
    for (offset_t i = first; i < entry; ++i)
      if (executed.expert[i] == slot) return i;
    return entry;
  }
};

/// The gradient of a sum of weights is that of each of them.
template <class T, class Exec> struct PlacedRowsToEntries {
  using C = compute_t<T>;
  Assignment<T, Exec> executed;
  Vector<index_t, Exec> carrier;
  C const* of_row;
  C* of_entry;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (offset_t i = executed.token_offsets[token]; i < executed.token_offsets[token + 1]; ++i)
      of_entry[i] = carrier[i] != none ? of_row[executed.row[carrier[i]]] : C(0);
  }
};

} // namespace detail

/// In which order the experts of one token are added up.
enum class SumOrder {
  stored, ///< as fits the experts' kernels: by place
  chosen  ///< by choice, so that where an expert lies does not change a bit
};

/// The router knows E experts, of which `stored` have weights; a table says where each of them lies. Two uses: experts that
/// were merged share a place (TiedExperts), and a few places hold, for a while, experts of a larger store (PlacedExperts,
/// cache/expert_store.hpp).
///
/// Selection, gate, balancer and capacity see the router's experts. Then two choices of a token that lie in one place become
/// one call with the sum of their weights, forward and backward; unless `merge` is off, or the sum would not be the same: the
/// weight is on the experts' input, or the combination is no weighted sum. Experts without weights (WithIdentity) follow behind the places.
/// Source: MC-SMoE, UNITES-Lab/MC-SMoE, whose merged experts share a module (docs/policies/placement/expert_map.md); one
/// call instead of two is ours.
/// \throws kokomo::Error 101 unless 1 <= stored <= experts with weights
template <SumOrder Order> struct ExpertMap {
  using slot = slots::placement;
  static constexpr bool sums_by_choice = Order == SumOrder::chosen;

  index_t stored = 0; ///< places, 1 to the experts with weights
  bool merge = true;  ///< choices that meet become one

  template <class T, class Exec> struct State {
    OwnedVector<index_t, Exec> slot_of_expert; ///< [experts with weights] 0 .. stored - 1; else it is not executed

    State() = default;
    State(Allocator<Exec> const& allocate, ExpertMap const&, Sizes const& sizes) {
      allocate(slot_of_expert, "kokomo::ExpertMap::slot_of_expert", sizes.weighted);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "slot_of_expert"}, slot_of_expert);
    }
  };
  template <class T, class Exec> struct Saved {
    Assignment<T, Exec> executed;  ///< of places
    Vector<index_t, Exec> carrier; ///< [entries] entry of `executed` that computes a choice, or none

    Saved(detail::Arena& arena, ExpertMap const& policy, Sizes const& sizes)
        : executed(arena, sizes.tokens, policy.placed(sizes).experts, sizes.entries),
          carrier(arena.vector<index_t, Exec>(sizes.entries)) {}
  };
  template <class T, class Exec> struct Scratch {
    detail::GroupingScratch<Exec> grouping;

    Scratch(detail::Arena& arena, ExpertMap const& policy, Sizes const& sizes)
        : grouping(arena, policy.placed(sizes)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(stored >= 1 && stored <= sizes.weighted, 101, "ExpertMap stored = ", stored, ", expected 1 to ",
                    sizes.weighted, " (the experts with weights)");
  }
  /// Sizes as the experts see them.
  Sizes placed(Sizes sizes) const {
    sizes.experts += stored - sizes.weighted;
    sizes.weighted = stored;
    return sizes;
  }

  /// Writes the table; blocks until it is there.
  /// \param[in] slots [experts with weights] 0 .. stored - 1, or none for an expert that has no place now
  /// \throws kokomo::Error 201 for another number of experts or a place that there is not
  template <class T, class Exec>
  void set(Exec const& exec, State<T, Exec> const& state, std::vector<index_t> const& slots) const {
    detail::require(slots.size() == state.slot_of_expert.extent(0), 201, "slots has ", slots.size(),
                    " experts, expected ", state.slot_of_expert.extent(0));
    for (index_t const slot_of_it : slots)
      detail::require(slot_of_it == none || (slot_of_it >= 0 && slot_of_it < stored), 201, "slots names place ",
                      slot_of_it, ", expected 0 to ", stored - 1, ", or none");
    Kokkos::View<index_t const*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged> const from(slots.data(), slots.size());
    Kokkos::deep_copy(exec, state.slot_of_expert, from);
    exec.fence("kokomo::ExpertMap::set");
  }

  /// Writes `executed` from what was chosen and weighed. `apart`: choices must not become one.
  template <class T, class Exec>
  void place(Exec const& exec, Routing<T, Exec> const& routing, State<T, Exec> const& state,
             Assignment<T, Exec> const& chosen, Saved<T, Exec> const& saved, Scratch<T, Exec> const& scratch,
             bool apart) const {
    detail::for_each(exec, "kokomo::ExpertMap::place", chosen.tokens + 1,
                     detail::MapEntries<T, Exec>{chosen, saved.executed, state.slot_of_expert, saved.carrier, stored,
                                                 merge && !apart, routing.status});
    detail::group_by_expert(exec, saved.executed, scratch.grouping);
  }

  /// From the gradients of rows' weights to those of the choices'.
  template <class T, class Exec>
  void place_backward(Exec const& exec, Saved<T, Exec> const& saved, compute_t<T> const* of_row,
                      compute_t<T>* of_entry) const {
    detail::for_each(exec, "kokomo::ExpertMap::place_backward", saved.executed.tokens,
                     detail::PlacedRowsToEntries<T, Exec>{saved.executed, saved.carrier, of_row, of_entry});
  }
};

/// Merged experts: several of the router's share one that is stored.
using TiedExperts = ExpertMap<SumOrder::stored>;
/// Experts that lie now here, now there: the output is the same, to the bit, wherever that is.
using PlacedExperts = ExpertMap<SumOrder::chosen>;

} // namespace kokomo::inline v0

#endif
