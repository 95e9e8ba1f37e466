// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_SOFT_MOE_MEMORY_HPP
#define KOKOMO_DETAIL_SOFT_MOE_MEMORY_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/product.hpp>

namespace kokomo::inline v0::detail {

template <class C, class Exec> WorkerScratch product_scratch(Arena& arena, int workers) {
  offset_t const bytes = product_scratch_bytes<C, Exec>();
  return {arena.take<std::byte>(bytes * workers), bytes, workers};
}

// Workspace of a SoftMoe. Of its Sizes, `columns` are the slots of a sequence and `entries` those of all sequences.

template <class Experts, class T, class Exec> struct SoftMoeScratch {
  using C = compute_t<T>;
  WorkerScratch workers;
  Matrix<T, Exec> x;    // [tokens, hidden] without padding, if there is a mask
  Matrix<C, Exec> rows; // [entries, hidden] by expert
  scratch_t<Experts, T, Exec> experts;

  SoftMoeScratch(Arena& arena, Experts const& policy, Sizes const& sizes, int worker_count)
      : workers(product_scratch<C, Exec>(arena, worker_count)), x(arena.matrix<T, Exec>(sizes.tokens, sizes.hidden)),
        rows(arena.matrix<C, Exec>(sizes.entries, sizes.hidden)),
        experts(make<decltype(experts)>(arena, policy, sizes)) {}
};

template <class Experts, class T, class Exec> struct SoftMoeBackwardScratch {
  using C = compute_t<T>;
  WorkerScratch workers;
  Matrix<T, Exec> x, dy;                 // [tokens, hidden] without padding, if there is a mask
  Matrix<C, Exec> d_slots, d_rows;       // [entries, hidden] by slot, by expert
  Matrix<C, Exec> d_combine, d_dispatch; // [tokens, slots]
  Matrix<C, Exec> along;                 // [sequences, slots]
  Matrix<C, Exec> dx, d_normalized;      // [tokens, hidden]
  Matrix<C, Exec> d_normalized_slots;    // [slots, hidden]
  Vector<C, Exec> d_scale;               // [tokens]
  Vector<C, Exec> inverse;               // [tokens or slots]
  backward_scratch_t<Experts, T, Exec> experts;

  SoftMoeBackwardScratch(Arena& arena, Experts const& policy, Sizes const& sizes, int worker_count)
      : workers(product_scratch<C, Exec>(arena, worker_count)), x(arena.matrix<T, Exec>(sizes.tokens, sizes.hidden)),
        dy(arena.matrix<T, Exec>(sizes.tokens, sizes.hidden)),
        d_slots(arena.matrix<C, Exec>(sizes.entries, sizes.hidden)),
        d_rows(arena.matrix<C, Exec>(sizes.entries, sizes.hidden)),
        d_combine(arena.matrix<C, Exec>(sizes.tokens, sizes.columns)),
        d_dispatch(arena.matrix<C, Exec>(sizes.tokens, sizes.columns)),
        along(arena.matrix<C, Exec>(sizes.entries / sizes.columns, sizes.columns)),
        dx(arena.matrix<C, Exec>(sizes.tokens, sizes.hidden)),
        d_normalized(arena.matrix<C, Exec>(sizes.tokens, sizes.hidden)),
        d_normalized_slots(arena.matrix<C, Exec>(sizes.columns, sizes.hidden)),
        d_scale(arena.vector<C, Exec>(sizes.tokens)),
        inverse(arena.vector<C, Exec>(Kokkos::max(sizes.tokens, offset_t(sizes.columns)))),
        experts(make<decltype(experts)>(arena, policy, sizes)) {}
};

} // namespace kokomo::inline v0::detail

#endif
