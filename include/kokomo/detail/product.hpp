// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_PRODUCT_HPP
#define KOKOMO_DETAIL_PRODUCT_HPP

#include <kokomo/detail/host/outer_product.hpp>
#include <kokomo/detail/host/product.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/operands.hpp>

#include <cassert>
#include <string>
#include <type_traits>

/// Grouped products: the one place where the arithmetic of experts and routers happens.
///
/// All sums are in the compute type C and in ascending order, so that the same input gives the same bits for any number
/// of threads, and a row the same bits wherever it stands in its group. Everything is enqueued on `exec`: no
/// allocation, no fence. A host execution space runs the blocked product of `detail/host/`, any other one thread an
/// element, which is also the reference that the blocked one is tested against.

namespace kokomo::inline v0::detail {

/// Whether the blocked products serve: they read and write storage types. Another type is refused by the layer, in one
/// sentence if it meets nothing that cannot be compiled for it.
template <class Exec, class... S>
inline constexpr bool blocked_v = runs_on_host_v<Exec> && (is_storage_v<std::remove_const_t<S>> && ...);

/// Bytes of scratch that each worker of a product needs, whatever the sizes. 0 for a device.
template <class C, class Exec> constexpr offset_t product_scratch_bytes() {
  return runs_on_host_v<Exec> ? host::Blocks<C>::bytes : 0;
}

/// Workers that a product is shared among: the threads of a host execution space. 0 for a device.
template <class Exec> int product_workers(Exec const& exec) {
  return runs_on_host_v<Exec> ? exec.concurrency() : 0;
}

namespace portable {

template <class S, class C> KOKKOS_FUNCTION void write_element(S& target, C value, Write write) {
  target = static_cast<S>(write == Write::add ? static_cast<C>(target) + value : value);
}

template <class SA, class C, class SB, class SO> struct GroupedProduct {
  GroupedRows groups;
  RowSource<SA, C> a;
  offset_t depth;
  WeightRef<SB const> b;
  BiasRef<SB const> bias;
  offset_t columns;
  RowTarget<SO> out;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const row = i / columns, n = i % columns;
    if (!groups.contains(row)) return;
    offset_t const g = groups.group_of(row);
    C sum = 0;
    for (offset_t k = 0; k < depth; ++k) sum += a(row, k) * static_cast<C>(b(g, n, k));
    if (bias.data != nullptr) sum += static_cast<C>(bias.data[g * bias.group_stride + n * bias.n_stride]);
    write_element(out.data[row * out.stride + n], sum, write);
  }
};

template <class SD, class SA, class C, class SW> struct GroupedOuterProduct {
  GroupedRows groups;
  RowSource<SD, C> d;
  offset_t columns;
  RowSource<SA, C> a;
  offset_t depth;
  WeightRef<SW> w;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const k = i % depth, n = i / depth % columns;
    auto const g = static_cast<index_t>(i / depth / columns);
    offset_t const first = groups.begin(g), last = groups.end(g);
    if (first == last && write == Write::add) return;
    C sum = 0;
    for (offset_t r = first; r < last; ++r) sum += d(r, n) * a(r, k);
    write_element(w(g, n, k), sum, write);
  }
};

template <class SD, class C, class SW> struct GroupedRowSum {
  GroupedRows groups;
  RowSource<SD, C> d;
  offset_t columns;
  BiasRef<SW> bias;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const g = static_cast<index_t>(i / columns);
    offset_t const n = i % columns, first = groups.begin(g), last = groups.end(g);
    if (first == last && write == Write::add) return;
    C sum = 0;
    for (offset_t r = first; r < last; ++r) sum += d(r, n);
    write_element(bias.data[g * bias.group_stride + n * bias.n_stride], sum, write);
  }
};

template <class Exec, class SA, class C, class SB, class SO>
void grouped_product(Exec const& exec, std::string const& label, GroupedRows groups, RowSource<SA, C> a, offset_t depth,
                     WeightRef<SB const> b, BiasRef<SB const> bias, offset_t columns, RowTarget<SO> out, Write write) {
  if (groups.groups == 0 || groups.rows == 0 || columns == 0) return;
  for_each(exec, label, groups.rows * columns,
           GroupedProduct<SA, C, SB, SO>{groups, a, depth, b, bias, columns, out, write});
}

template <class Exec, class SD, class SA, class C, class SW>
void grouped_outer_product(Exec const& exec, std::string const& label, GroupedRows groups, RowSource<SD, C> d,
                           offset_t columns, RowSource<SA, C> a, offset_t depth, WeightRef<SW> w, Write write) {
  if (groups.groups == 0 || columns == 0 || depth == 0) return;
  for_each(exec, label, groups.groups * columns * depth,
           GroupedOuterProduct<SD, SA, C, SW>{groups, d, columns, a, depth, w, write});
}

template <class Exec, class SD, class C, class SW>
void grouped_row_sum(Exec const& exec, std::string const& label, GroupedRows groups, RowSource<SD, C> d,
                     offset_t columns, BiasRef<SW> bias, Write write) {
  if (groups.groups == 0 || columns == 0) return;
  for_each(exec, label, groups.groups * columns, GroupedRowSum<SD, C, SW>{groups, d, columns, bias, write});
}

} // namespace portable

namespace host {

/// One iteration a worker. Which thread runs which worker's share changes nothing.
template <class Exec, class Functor>
void launch(Exec const& exec, std::string const& label, int workers, Functor const& functor) {
  assert(workers > 0);
  for_each_share(exec, label, workers, workers, functor);
}

} // namespace host

/// out(r, n) (=|+=) sum_k a(r, k) * b(g, n, k) + bias(g, n) for every row r of every group g.
///
/// \param[in] a rows x depth: gathered and scaled while it is read
/// \param[in] b groups of columns x depth, any strides
/// \param[in] bias groups of columns, or none
/// \param[in,out] out rows x columns; rows that belong to no group are not touched
/// \param[in] scratch product_scratch_bytes<C, Exec>() for each of up to product_workers(exec) workers
template <class Exec, class SA, class C, class SB, class SO>
void grouped_product(Exec const& exec, std::string const& label, GroupedRows groups, RowSource<SA, C> a, offset_t depth,
                     WeightRef<SB const> b, BiasRef<SB const> bias, offset_t columns, RowTarget<SO> out, Write write,
                     WorkerScratch scratch) {
  if constexpr (blocked_v<Exec, SA, SB, SO>) {
    if (groups.groups == 0 || groups.rows == 0 || columns == 0) return;
    host::launch(exec, label, scratch.workers,
                 host::GroupedProduct<SA, C, SB, SO>{groups, a, depth, b, bias, columns, out, write, scratch,
                                                     &host::microkernel<C>(host::instruction_set())});
  } else {
    portable::grouped_product(exec, label, groups, a, depth, b, bias, columns, out, write);
  }
}

/// w(g, n, k) (=|+=) sum over the rows r of group g of d(r, n) * a(r, k): the gradient of grouped_product's weights.
/// A group without rows: overwrite writes zeros, add leaves what is there.
///
/// \param[in] d rows x columns
/// \param[in] a rows x depth
/// \param[in,out] w groups of columns x depth, any strides
/// \param[in] scratch as in grouped_product
template <class Exec, class SD, class SA, class C, class SW>
void grouped_outer_product(Exec const& exec, std::string const& label, GroupedRows groups, RowSource<SD, C> d,
                           offset_t columns, RowSource<SA, C> a, offset_t depth, WeightRef<SW> w, Write write,
                           WorkerScratch scratch) {
  if constexpr (blocked_v<Exec, SD, SA, SW>) {
    if (groups.groups == 0 || columns == 0 || depth == 0) return;
    auto const* kernel = &host::outer_kernel<C, SW>(host::instruction_set());
    if (w.n_stride == 1 && w.k_stride != 1)
      host::launch(exec, label, scratch.workers,
                   host::GroupedOuterProduct<SA, SD, C, SW>{groups, a, depth, d, columns, w.transposed(), write,
                                                            scratch, kernel});
    else
      host::launch(exec, label, scratch.workers,
                   host::GroupedOuterProduct<SD, SA, C, SW>{groups, d, columns, a, depth, w, write, scratch, kernel});
  } else {
    portable::grouped_outer_product(exec, label, groups, d, columns, a, depth, w, write);
  }
}

/// bias(g, n) (=|+=) sum over the rows r of group g of d(r, n): the gradient of grouped_product's bias.
/// A group without rows: overwrite writes zeros, add leaves what is there.
template <class Exec, class SD, class C, class SW>
void grouped_row_sum(Exec const& exec, std::string const& label, GroupedRows groups, RowSource<SD, C> d,
                     offset_t columns, BiasRef<SW> bias, Write write) {
  if constexpr (blocked_v<Exec, SD, SW>) {
    if (groups.groups == 0 || columns == 0) return;
    int const workers = product_workers(exec);
    host::launch(exec, label, workers, host::GroupedRowSum<SD, C, SW>{groups, d, columns, bias, write, workers});
  } else {
    portable::grouped_row_sum(exec, label, groups, d, columns, bias, write);
  }
}

} // namespace kokomo::inline v0::detail

#endif
