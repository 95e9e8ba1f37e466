// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_VIEWS_HPP
#define KOKOMO_TESTS_SUPPORT_VIEWS_HPP

#include <support/catch.hpp>

#include <kokomo/types.hpp>

#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

// What is not a template here is compiled once, in the support library: a test program's time goes into compiling.

namespace kokomo::test {

using Exec = Kokkos::DefaultExecutionSpace;

/// Whether memory of a space can be read on the host without a copy.
template <class Space>
inline constexpr bool on_host_v = Kokkos::SpaceAccessibility<Kokkos::HostSpace, Space>::accessible;

/// Bytes from and to Exec's memory. One copy for all types: each View type with a Kokkos::deep_copy of its own costs a
/// compiler some hundred functions.
void copy_from_device(void const* from, void* to, std::size_t bytes);
void copy_to_device(void const* from, void* to, std::size_t bytes);
/// Every byte becomes 0xff: NaN as a number, -1 as an index. What is read without having been written shows.
void poison_bytes(void* data, std::size_t bytes);
/// A test cannot go on with values for a View of another size.
void require_size(std::size_t values, std::size_t expected);

/// The elements at `data`, in memory of Space.
template <class Value, class Space> std::vector<Value> copied(Value const* data, std::size_t size) {
  std::vector<Value> values(size);
  if constexpr (on_host_v<Space>) {
    Kokkos::fence();
    for (std::size_t i = 0; i < size; ++i) values[i] = data[i];
  } else {
    static_assert(std::is_same_v<Space, Exec::memory_space>);
    copy_from_device(data, values.data(), size * sizeof(Value));
  }
  return values;
}
template <class Value, class Space, class Values> void copy_in(Values const& values, Value* data) {
  if constexpr (on_host_v<Space>) {
    Kokkos::fence();
    for (std::size_t i = 0; i < values.size(); ++i) data[i] = static_cast<Value>(values[i]);
  } else {
    static_assert(std::is_same_v<Space, Exec::memory_space>);
    std::vector<Value> converted(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) converted[i] = static_cast<Value>(values[i]);
    copy_to_device(converted.data(), data, values.size() * sizeof(Value));
  }
}

/// Copies between a View of any memory space and the host, element by element in row-major order.
template <class V> auto to_host(V const& view) {
  return copied<std::remove_const_t<typename V::value_type>, typename V::memory_space>(view.data(), view.size());
}
template <class V, class Values> void to_device(Values const& values, V const& view) {
  require_size(values.size(), view.size());
  copy_in<typename V::value_type, typename V::memory_space>(values, view.data());
}

using Row = std::vector<double>;
using Rows = std::vector<Row>;

template <class Values> Row in_double(Values const& values) {
  Row row(values.size());
  for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<double>(values[i]);
  return row;
}
Rows in_rows(Row const& values, std::size_t rows);
Row flat(Rows const& rows);

double norm(Row const& values);
/// ||out - ref||; NaN where the sizes differ, so that no comparison with it holds.
double distance(Row const& out, Row const& ref);
/// ||out - ref|| / ||ref||, or ||out|| where the reference vanishes.
double relative_error(Row const& out, Row const& ref);

/// A View whose type is gone: what a test does with all tensors alike is compiled once.
struct Tensor {
  void* data = nullptr;
  std::size_t size = 0;
  Row (*read_elements)(void const* data, std::size_t size) = nullptr;
  void (*write_elements)(Row const& values, void* data) = nullptr;

  Row read() const { return read_elements(data, size); }
  void write(Row const& values) const {
    require_size(values.size(), size);
    write_elements(values, data);
  }
};
using Tensors = std::vector<std::pair<std::string, Tensor>>;

template <class Value, class Space> Row read_elements(void const* data, std::size_t size) {
  return in_double(copied<Value, Space>(static_cast<Value const*>(data), size));
}
/// Storage types as a layer rounds to them: by way of the compute type.
template <class Value, class Space> void write_elements(Row const& values, void* data) {
  if constexpr (std::is_integral_v<Value> || std::is_same_v<Value, double>) {
    copy_in<Value, Space>(values, static_cast<Value*>(data));
  } else {
    std::vector<float> const rounded(values.begin(), values.end());
    copy_in<Value, Space>(rounded, static_cast<Value*>(data));
  }
}
template <class V> Tensor tensor(V const& view) {
  using Value = typename V::value_type;
  using Space = typename V::memory_space;
  return {view.data(), view.size(), &read_elements<Value, Space>, &write_elements<Value, Space>};
}

struct CollectTensors {
  Tensors& all;
  template <class V> void operator()(std::string const& name, V const& view) const {
    all.emplace_back(name, tensor(view));
  }
};
/// What a layer's Parameters or State names.
template <class Object> Tensors tensors_of(Object const& object) {
  Tensors all;
  object.for_each(CollectTensors{all});
  return all;
}

/// The same of a policy's nested object.
template <class Object> Tensors policy_tensors(Object const& object) {
  Tensors all;
  object.for_each(CollectTensors{all}, "");
  return all;
}

/// Uniform numbers in [-size, size).
void fill_uniform(Tensor const& tensor, std::mt19937& engine, double size = 1);

template <class Memory> void poison(Memory const& memory) {
  poison_bytes(memory.data(), memory.bytes());
}
void poison_tensor(Tensor const& tensor);
template <class V> void poison_view(V const& view) {
  poison_tensor(tensor(view));
}

/// Poisoned blocks of Exec's memory, 64-byte aligned, alive as long as this.
class PoisonedMemory {
public:
  std::byte* allocate(std::size_t bytes);

private:
  std::vector<Kokkos::View<std::byte*, Exec::memory_space>> m_blocks;
};

} // namespace kokomo::test

#endif
