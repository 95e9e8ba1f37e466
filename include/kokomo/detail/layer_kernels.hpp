// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_LAYER_KERNELS_HPP
#define KOKOMO_DETAIL_LAYER_KERNELS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/routing.hpp>

#include <array>
#include <string>
#include <utility>
#include <vector>

namespace kokomo::inline v0::detail {

/// Names and extents of parameters or state, to compare a caller's with a layer's.
using Extents = std::vector<std::array<std::size_t, 3>>;

inline std::string to_text(std::array<std::size_t, 3> const& extents) {
  return "[" + std::to_string(extents[0]) + ", " + std::to_string(extents[1]) + ", " + std::to_string(extents[2]) + "]";
}

template <class Object> Extents extents_of(Object const& object) {
  Extents extents;
  object.for_each([&](auto const&, auto const& view) {
    extents.push_back({view.extent(0), view.extent(1), view.extent(2)});
  });
  return extents;
}

/// \throws kokomo::Error 202 naming the first View whose extents are not those that the layer makes
template <class Object> void check_extents(char const* what, Object const& object, Extents const& expected) {
  std::size_t i = 0;
  object.for_each([&](auto const& name, auto const& view) {
    std::array<std::size_t, 3> const extents{view.extent(0), view.extent(1), view.extent(2)};
    if (i < expected.size() && extents == expected[i] && view.data() != nullptr) return void(++i);
    fail(202, what, ": ", std::string(name), " has extents ", to_text(extents),
         i < expected.size() ? ", expected " + to_text(expected[i]) + " with memory (unused ones count 1)"
                             : ", expected no such View for the settings of this layer");
  });
  require(i == expected.size(), 202, what, " holds ", i, " Views, expected the ", expected.size(),
          " that this layer makes for its settings");
}

/// One pass over a token's logits and a fresh status.
template <class T, class Exec> struct CountNonFinite {
  Routing<T, Exec> routing;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    offset_t count = 0;
    for (index_t e = 0; e < routing.sizes.columns; ++e) count += Kokkos::isfinite(routing.logits(token, e)) ? 0 : 1;
    if (count > 0) Kokkos::atomic_add(&routing.status->non_finite_logits, count);
  }
};

struct ResetStatus {
  Status* status;
  KOKKOS_FUNCTION void operator()(offset_t) const { *status = Status{}; }
};

template <class T, class Exec> struct RecordChosen {
  Assignment<T, Exec> a;
  offset_t* chosen;
  KOKKOS_FUNCTION void operator()(offset_t) const { *chosen = a.expert_offsets[a.experts]; }
};

template <class T, class Exec> struct CountUnrouted {
  Assignment<T, Exec> a;
  Status* status;
  offset_t const* chosen;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    bool routed = false;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) routed = routed || a.row[i] != none;
    if (!routed) Kokkos::atomic_inc(&status->tokens_without_expert);
    if (token == 0) status->dropped = *chosen - a.expert_offsets[a.experts];
  }
};

/// <dx row, x row> of each row: the gradient of a weight on the input.
template <class T, class Exec> struct RowDot {
  using C = compute_t<T>;
  GroupedRows rows;
  C const* dx;
  RowSource<T, C> x; // without scale
  offset_t width;
  C* d_weight;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!rows.contains(row)) return;
    C sum = 0;
    for (offset_t h = 0; h < width; ++h) sum += dx[row * width + h] * x(row, h);
    d_weight[row] = sum;
  }
};

/// From rows back to entries: what was not executed gets no gradient.
template <class T, class Exec> struct RowsToEntries {
  using C = compute_t<T>;
  Assignment<T, Exec> a;
  C const* of_row;
  C* of_entry;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      of_entry[i] = a.row[i] != none ? of_row[a.row[i]] : C(0);
  }
};

} // namespace kokomo::inline v0::detail

#endif
