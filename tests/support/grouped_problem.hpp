// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_GROUPED_PROBLEM_HPP
#define KOKOMO_TESTS_SUPPORT_GROUPED_PROBLEM_HPP

#include <kokomo/detail/operands.hpp>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

namespace kokomo::test::grouped {

using detail::BiasRef;
using detail::GroupedRows;
using detail::RowSource;
using detail::WeightRef;

/// Values of few bits: their products and any sums of them are exact in float32, so that a wrong index cannot hide in a
/// tolerance.
template <class S> std::vector<S> exact_values(std::mt19937& engine, offset_t count) {
  std::vector<S> values(static_cast<std::size_t>(count));
  for (S& value : values) value = S(float(int(engine() % 17) - 8) / 8.0f);
  return values;
}

/// Memory on a boundary of 16 bytes, or 2 bytes behind one.
template <class S> struct Placed {
  std::vector<S> memory;
  std::size_t shift;

  Placed(std::vector<S> const& values, bool on_boundary) : memory(values.size() + 16) {
    auto const base = reinterpret_cast<std::uintptr_t>(memory.data());
    shift = (16 - base % 16) % 16 / sizeof(S) + (on_boundary ? 0 : 1);
    std::copy(values.begin(), values.end(), memory.begin() + std::ptrdiff_t(shift));
  }
  S* data() { return memory.data() + shift; }
};

struct Groups {
  std::vector<offset_t> offsets{0};
  std::vector<index_t> group_of_row;

  explicit Groups(std::vector<offset_t> const& sizes) {
    for (std::size_t g = 0; g < sizes.size(); ++g) {
      offsets.push_back(offsets.back() + sizes[g]);
      group_of_row.insert(group_of_row.end(), std::size_t(sizes[g]), index_t(g));
    }
  }
  offset_t rows() const { return offsets.back(); }
  index_t groups() const { return index_t(offsets.size() - 1); }
  /// With an upper bound, as a host that knows only the capacity has it.
  GroupedRows grouped() const { return {offsets.data(), group_of_row.data(), groups(), rows() + 70}; }
};

enum class Storage { out_in, in_out, strided };

struct Case {
  std::vector<offset_t> sizes;
  offset_t columns, depth;
  Storage storage = Storage::out_in;
  bool gathered = true, scaled = false, biased = false, on_boundary = true;
  Write write = Write::overwrite;
};

std::vector<Case> cases() {
  std::vector<offset_t> const ragged{0, 5, 33, 0, 64, 1};
  return {
      {ragged, 40, 72},
      {ragged, 40, 72, Storage::in_out},
      {ragged, 40, 72, Storage::strided},
      {ragged, 33, 19, Storage::out_in, true, true, true},          // nothing is a multiple of anything
      {ragged, 33, 19, Storage::in_out, true, true, true},          //
      {ragged, 64, 64, Storage::out_in, false, false, true, false}, // not on a boundary
      {{7}, 8, 136, Storage::in_out, true, false, false, true, Write::add},
      {{0, 0}, 8, 8},
      {{100}, 1, 1},
      {{3}, 70, 200, Storage::out_in, false},
  };
}

/// Operands of one product in storage type T.
template <class T> struct Problem {
  Case sizes;
  Groups groups;
  offset_t tokens = 9;
  std::vector<index_t> index;
  std::vector<float> scale;
  Placed<T> a, w, up, bias, d;

  Problem(Case const& s, std::mt19937& engine)
      : sizes(s), groups(s.sizes), a(exact_values<T>(engine, std::max(tokens, groups.rows()) * s.depth), s.on_boundary),
        w(exact_values<T>(engine, groups.groups() * weight_extent()), s.on_boundary),
        up(exact_values<T>(engine, groups.groups() * weight_extent()), s.on_boundary),
        bias(exact_values<T>(engine, groups.groups() * s.columns), true),
        d(exact_values<T>(engine, groups.rows() * s.columns), s.on_boundary) {
    for (offset_t r = 0; r < groups.rows(); ++r) {
      index.push_back(index_t(engine() % unsigned(tokens)));
      scale.push_back(float(1 + engine() % 3) / 2);
    }
  }
  offset_t weight_extent() const { return sizes.columns * sizes.depth * (sizes.storage == Storage::strided ? 2 : 1); }
  template <class S> WeightRef<S> weight(S* data) const {
    offset_t const n = sizes.columns, k = sizes.depth;
    if (sizes.storage == Storage::out_in) return {data, n * k, k, 1};
    if (sizes.storage == Storage::in_out) return {data, n * k, 1, n};
    return {data, 2 * n * k, 2 * k, 2};
  }
  RowSource<T, float> rows() {
    return {a.data(), sizes.depth, sizes.gathered ? index.data() : nullptr, sizes.scaled ? scale.data() : nullptr};
  }
  BiasRef<T const> bias_ref() { return {sizes.biased ? bias.data() : nullptr, sizes.columns, 1}; }
  /// sum_k a(r, k) w(g, n, k)
  double product(offset_t r, offset_t n, T* weights) {
    auto const w_of = weight<T const>(weights);
    double sum = 0;
    for (offset_t k = 0; k < sizes.depth; ++k)
      sum += double(rows()(r, k)) * double(float(w_of(groups.group_of_row[std::size_t(r)], n, k)));
    return sum;
  }
};

} // namespace kokomo::test::grouped

#endif
