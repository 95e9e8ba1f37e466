// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "family_layer.hpp"

#include <Kokkos_Timer.hpp>

namespace families {

namespace {

using DeviceBytes = Kokkos::View<std::byte*, Exec::memory_space, Kokkos::MemoryUnmanaged>;
using HostBytes = Kokkos::View<std::byte*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged>;

template <class T> Kokkos::View<std::byte*, Exec::memory_space> on_device(std::vector<T> const& values) {
  Kokkos::View<std::byte*, Exec::memory_space> const bytes(
      Kokkos::view_alloc(Kokkos::WithoutInitializing, "families::FamilyLayer"), values.size() * sizeof(T));
  copy_to_device(bytes.data(), values.data(), bytes.size());
  return bytes;
}

template <class T> std::vector<T> on_host(T const* device, std::size_t count) {
  std::vector<T> values(count);
  copy_to_host(values.data(), device, count * sizeof(T));
  return values;
}
template <class T> std::vector<T> on_host(std::span<T const> device) {
  return on_host(device.data(), device.size());
}

std::vector<float> floats(void const* device, std::size_t count, bool bfloat16) {
  if (!bfloat16) return on_host(static_cast<float const*>(device), count);
  auto const values = on_host(static_cast<kokomo::bfloat16 const*>(device), count);
  return std::vector<float>(values.begin(), values.end());
}

/// Two or three products of a row with a matrix of [hidden, intermediate], two operations a weight.
double flop_of_row(bool gated, kokomo::offset_t hidden, kokomo::offset_t intermediate) {
  return 2.0 * (gated ? 3 : 2) * double(hidden) * double(intermediate);
}

} // namespace

void copy_to_device(void* device, void const* host, std::size_t bytes) {
  if (bytes == 0) return;
  // Views of const bytes would be further types to copy between
  Kokkos::deep_copy(DeviceBytes(static_cast<std::byte*>(device), bytes),
                    HostBytes(static_cast<std::byte*>(const_cast<void*>(host)), bytes));
}

void copy_to_host(void* host, void const* device, std::size_t bytes) {
  if (bytes == 0) return;
  Kokkos::deep_copy(HostBytes(static_cast<std::byte*>(host), bytes),
                    DeviceBytes(static_cast<std::byte*>(const_cast<void*>(device)), bytes));
}

FamilyLayer::Bytes FamilyLayer::stored(std::vector<float> const& values) const {
  return m_bfloat16 ? on_device(std::vector<kokomo::bfloat16>(values.begin(), values.end())) : on_device(values);
}

std::vector<float> FamilyLayer::read_back(Bytes const& stored) const {
  return floats(stored.data(), std::size_t(m_tokens * m_description.hidden), m_bfloat16);
}

void FamilyLayer::forward(Inputs const& inputs) {
  std::size_t const expected = std::size_t(m_tokens * m_description.hidden);
  kokomo::detail::require(inputs.x.size() == expected, 201, "x has ", inputs.x.size(), " elements, expected ",
                          expected);
  m_device.x = stored(inputs.x);
  m_device.y = stored(std::vector<float>(expected));
  m_device.token_ids = on_device(inputs.token_ids);
  m_device.experts = on_device(inputs.experts);
  m_device.gate_factors = on_device(inputs.gate_factors);
  m_device.previous_states = on_device(inputs.previous_states);
  m_device.token_mask = on_device(inputs.token_mask);
  m_mode = inputs.mode;
  forward_again();
}

double FamilyLayer::forward_again() {
  Kokkos::Timer const timer;
  run_forward();
  m_exec.fence("families::FamilyLayer::forward");
  return timer.seconds();
}

void FamilyLayer::backward(std::vector<float> const& dy) {
  m_device.dy = stored(dy);
  m_device.dx = stored(std::vector<float>(dy.size()));
  m_device.d_previous_states = on_device(std::vector<float>(m_device.previous_states.size() / sizeof(float)));
  run_backward();
  m_exec.fence("families::FamilyLayer::backward");
}

std::vector<float> FamilyLayer::y() const {
  return read_back(m_device.y);
}
std::vector<float> FamilyLayer::dx() const {
  return read_back(m_device.dx);
}
std::vector<float> FamilyLayer::d_previous_states() const {
  auto const& bytes = m_device.d_previous_states;
  return on_host(reinterpret_cast<float const*>(bytes.data()), bytes.size() / sizeof(float));
}

std::vector<float> FamilyLayer::logits() const {
  return on_host(saved().logits);
}
std::vector<float> FamilyLayer::shared_weight() const {
  return on_host(saved().shared_weight);
}
std::vector<float> FamilyLayer::router_states() const {
  return on_host(saved().router_states);
}

Assignment FamilyLayer::assignment() const {
  Saved const s = saved();
  return {.token_offsets = on_host(s.token_offsets),
          .expert = on_host(s.expert),
          .row = on_host(s.row),
          .weight = on_host(s.weight),
          .expert_offsets = on_host(s.expert_offsets)};
}

kokomo::Status FamilyLayer::status() const {
  return on_host(saved().status, 1)[0];
}

double FamilyLayer::flop() const {
  auto const& d = m_description;
  Saved const s = saved();
  auto const rows = on_host(s.expert_offsets)[std::size_t(s.weighted_experts)];
  double flop = double(rows) * flop_of_row(m_traits.gated, d.latent > 0 ? d.latent : d.hidden, d.intermediate);
  if (m_traits.has_shared)
    flop += double(m_tokens) * d.shared * flop_of_row(m_traits.shared_gated, d.hidden, d.shared_intermediate);
  return flop;
}

std::vector<Gradient> FamilyLayer::gradients() const {
  std::vector<Gradient> gradients;
  for (auto const& [name, extents, values, bfloat16] : parameter_gradients())
    gradients.push_back({name, extents, floats(values, std::size_t(extents[0] * extents[1] * extents[2]), bfloat16)});
  return gradients;
}

} // namespace families
