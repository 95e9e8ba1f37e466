// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/views.hpp>

#include <cmath>
#include <cstdint>
#include <limits>

namespace kokomo::test {

namespace {

using Bytes = unsigned char*;
using HostBytes = Kokkos::View<Bytes, Kokkos::HostSpace, Kokkos::MemoryUnmanaged>;
using DeviceBytes = Kokkos::View<Bytes, Exec::memory_space, Kokkos::MemoryUnmanaged>;

Bytes bytes_at(void const* data) {
  return static_cast<Bytes>(const_cast<void*>(data));
}

} // namespace

void copy_from_device(void const* from, void* to, std::size_t bytes) {
  Kokkos::deep_copy(HostBytes(bytes_at(to), bytes), DeviceBytes(bytes_at(from), bytes));
}
void copy_to_device(void const* from, void* to, std::size_t bytes) {
  Kokkos::deep_copy(DeviceBytes(bytes_at(to), bytes), HostBytes(bytes_at(from), bytes));
}
void poison_bytes(void* data, std::size_t bytes) {
  Kokkos::deep_copy(DeviceBytes(bytes_at(data), bytes), static_cast<unsigned char>(0xff));
}
void require_size(std::size_t values, std::size_t expected) {
  REQUIRE(values == expected);
}
void poison_tensor(Tensor const& tensor) {
  if (tensor.size == 0) return;
  // Integers have no NaN. They are told apart by what they make of a half, and become an index of nothing.
  tensor.write(Row(tensor.size, 0.5));
  bool const floating = tensor.read().front() == 0.5;
  tensor.write(Row(tensor.size, floating ? std::numeric_limits<double>::quiet_NaN() : 127));
}

void fill_uniform(Tensor const& tensor, std::mt19937& engine, double size) {
  std::uniform_real_distribution<double> uniform(-size, size);
  Row values(tensor.size);
  for (double& value : values) value = uniform(engine);
  tensor.write(values);
}

Rows in_rows(Row const& values, std::size_t rows) {
  Rows result(rows);
  for (std::size_t i = 0; i < values.size(); ++i) result[i / (values.size() / rows)].push_back(values[i]);
  return result;
}
Row flat(Rows const& rows) {
  Row values;
  for (auto const& row : rows) values.insert(values.end(), row.begin(), row.end());
  return values;
}

double norm(Row const& values) {
  double sum = 0;
  for (double const value : values) sum += value * value;
  return std::sqrt(sum);
}
double distance(Row const& out, Row const& ref) {
  if (out.size() != ref.size()) return std::numeric_limits<double>::quiet_NaN();
  Row difference = out;
  for (std::size_t i = 0; i < ref.size(); ++i) difference[i] -= ref[i];
  return norm(difference);
}
double relative_error(Row const& out, Row const& ref) {
  double const size = norm(ref);
  return distance(out, ref) / (size > 0 ? size : 1.0);
}

std::byte* PoisonedMemory::allocate(std::size_t bytes) {
  constexpr std::size_t alignment = 64;
  Kokkos::View<std::byte*, Exec::memory_space> const block("memory", bytes + alignment);
  poison_bytes(block.data(), block.size());
  m_blocks.push_back(block);
  auto const address = reinterpret_cast<std::uintptr_t>(block.data());
  return block.data() + (alignment - address % alignment) % alignment;
}

} // namespace kokomo::test
