// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_VIEWS_HPP
#define KOKOMO_TESTS_SUPPORT_VIEWS_HPP

#include <support/catch.hpp>

#include <kokomo/types.hpp>

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

namespace kokomo::test {

using Exec = Kokkos::DefaultExecutionSpace;

/// Copies between a View of any memory space and the host, element by element in row-major order.
template <class V> auto to_host(V const& view) {
  using Value = std::remove_const_t<typename V::value_type>;
  std::vector<Value> values(view.size());
  Kokkos::View<Value*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged> target(values.data(), values.size());
  Kokkos::View<typename V::value_type*, typename V::memory_space, Kokkos::MemoryUnmanaged> source(view.data(),
                                                                                                  view.size());
  Kokkos::deep_copy(target, source);
  return values;
}
template <class V, class Values> void to_device(Values const& values, V const& view) {
  using Value = typename V::value_type;
  REQUIRE(values.size() == view.size());
  std::vector<Value> converted;
  if constexpr (!std::is_same_v<typename Values::value_type, Value>)
    for (auto const& value : values) converted.push_back(static_cast<Value>(value));
  Value const* data = converted.data();
  if constexpr (std::is_same_v<typename Values::value_type, Value>) data = values.data();
  Kokkos::View<Value const*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged> source(data, values.size());
  Kokkos::View<Value*, typename V::memory_space, Kokkos::MemoryUnmanaged> target(view.data(), view.size());
  Kokkos::deep_copy(target, source);
}

using Row = std::vector<double>;
using Rows = std::vector<Row>;

template <class Values> Row in_double(Values const& values) {
  Row row;
  for (auto const& value : values) row.push_back(static_cast<double>(value));
  return row;
}
inline Rows in_rows(Row const& values, std::size_t rows) {
  Rows result(rows);
  for (std::size_t i = 0; i < values.size(); ++i) result[i / (values.size() / rows)].push_back(values[i]);
  return result;
}
inline Row flat(Rows const& rows) {
  Row values;
  for (auto const& row : rows) values.insert(values.end(), row.begin(), row.end());
  return values;
}

inline double norm(Row const& values) {
  double sum = 0;
  for (double const value : values) sum += value * value;
  return std::sqrt(sum);
}
/// ||out - ref||; NaN where the sizes differ, so that no comparison with it holds.
inline double distance(Row const& out, Row const& ref) {
  if (out.size() != ref.size()) return std::numeric_limits<double>::quiet_NaN();
  Row difference = out;
  for (std::size_t i = 0; i < ref.size(); ++i) difference[i] -= ref[i];
  return norm(difference);
}
/// ||out - ref|| / ||ref||, or ||out|| where the reference vanishes.
inline double relative_error(Row const& out, Row const& ref) {
  double const size = norm(ref);
  return distance(out, ref) / (size > 0 ? size : 1.0);
}

/// Every byte becomes 0xff: NaN as a number, -1 as an index. What is read without having been written shows.
template <class Memory> void poison(Memory const& memory) {
  Kokkos::View<unsigned char*, typename Exec::memory_space, Kokkos::MemoryUnmanaged> bytes(
      reinterpret_cast<unsigned char*>(memory.data()), memory.bytes());
  Kokkos::deep_copy(bytes, static_cast<unsigned char>(0xff));
}
template <class V> void poison_view(V const& view) {
  using Value = typename V::value_type;
  to_device(std::vector<Value>(view.size(), Value(std::numeric_limits<float>::quiet_NaN())), view);
}

} // namespace kokomo::test

#endif
