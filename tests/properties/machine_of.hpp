// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_PROPERTIES_MACHINE_OF_HPP
#define KOKOMO_TESTS_PROPERTIES_MACHINE_OF_HPP

#include <properties/machine.hpp>

#include <kokomo/layer.hpp>

#include <cstring>
#include <stdexcept>

namespace properties {

/// Fills memory with what is NaN in every storage type, and as an integer far out of every range and ever another one.
template <class Exec> void poison(Exec const&, void* data, std::size_t bytes) {
  std::vector<std::uint32_t> words(bytes / 4 + 1);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = 0x7ff87ff8u + std::uint32_t(i % 7);
  using Bytes = unsigned char*;
  Kokkos::deep_copy(Kokkos::View<Bytes, typename Exec::memory_space, Kokkos::MemoryUnmanaged>(Bytes(data), bytes),
                    Kokkos::View<Bytes, Kokkos::HostSpace, Kokkos::MemoryUnmanaged>(Bytes(words.data()), bytes));
}

/// Poisoned memory of exactly `bytes` bytes between guards.
template <class Exec> class Guarded {
public:
  explicit Guarded(std::size_t bytes) : m_memory("guarded", bytes + 2 * guard), m_bytes(bytes) {
    Kokkos::deep_copy(m_memory, 0xa5);
    poison(Exec{}, data(), bytes);
  }
  std::byte* data() const { return reinterpret_cast<std::byte*>(m_memory.data() + guard); }
  std::size_t bytes() const { return m_bytes; }
  bool intact() const {
    auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, m_memory);
    for (std::size_t i = 0; i < guard; ++i)
      if (host(i) != 0xa5 || host(guard + m_bytes + i) != 0xa5) return false;
    return true;
  }

private:
  static constexpr std::size_t guard = 1024;
  Kokkos::View<unsigned char*, typename Exec::memory_space> m_memory;
  std::size_t m_bytes;
};

template <class View> void poison(View const& view) {
  poison(typename View::execution_space{}, view.data(), view.size() * sizeof(typename View::value_type));
}

template <class View> void upload(View const& view, std::vector<double> const& values) {
  if (values.size() != view.size()) throw std::logic_error("properties: a tensor of another size");
  auto const host = Kokkos::create_mirror_view(view);
  for (std::size_t i = 0; i < values.size(); ++i)
    host.data()[i] = static_cast<typename View::non_const_value_type>(values[i]);
  Kokkos::deep_copy(view, host);
}

template <class Number, class View> std::vector<Number> download(View const& view) {
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, view);
  std::vector<Number> values(host.size());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<Number>(host.data()[i]);
  return values;
}

template <class Object> Tensors tensors_of(Object const& object) {
  Tensors tensors;
  object.for_each([&](std::string const& name, auto const& view) {
    Tensor tensor;
    for (std::size_t d = 0; d < view.rank(); ++d) tensor.extents.push_back(offset_t(view.extent(int(d))));
    tensor.values = download<double>(view);
    tensors[name] = std::move(tensor);
  });
  return tensors;
}

template <class Object> void upload_all(Object const& object, Tensors const& tensors) {
  object.for_each([&](std::string const& name, auto const& view) { upload(view, tensors.at(name).values); });
}

template <class LayerT> class MachineOf final : public Machine {
public:
  using T = typename LayerT::Storage;
  using Exec = typename LayerT::Exec;
  using Batch2D = Kokkos::View<T**, Kokkos::LayoutRight, Exec>;

  MachineOf(kokomo::Shape const& shape, typename LayerT::Policies const& policies) : m_layer(shape, policies) {
    parameters = tensors_of(m_layer.make_parameters(Exec{}));
    state = tensors_of(m_layer.make_state(Exec{}));
    unsigned seed = 77;
    for (auto& [name, tensor] : parameters) tensor.values = random_numbers(tensor.values.size(), ++seed, 0.5);
  }

  kokomo::Sizes const& sizes() const override { return m_layer.sizes(); }

  Result run(Batch const& batch, Pass pass) override {
    Exec const exec = partition ? Kokkos::Experimental::partition_space(Exec{}, 1, 1)[0] : Exec{};
    auto const p = m_layer.make_parameters(exec), grads = m_layer.make_parameters(exec);
    auto const s = m_layer.make_state(exec);
    upload_all(p, parameters);
    upload_all(s, state);
    auto plan = m_layer.plan(exec);
    int const shares = workers > 0 ? workers : plan.workers;
    // a workspace for another number of workers than the instance has: its part for each is all alike
    if (plan.workers > 0)
      plan.workspace_bytes += std::size_t(shares) * worker_bytes() - std::size_t(plan.workers) * worker_bytes();
    Guarded<Exec> const workspace_memory(plan.workspace_bytes), tape_memory(plan.tape_bytes);
    kokomo::Workspace<Exec> const workspace(workspace_memory.data(), workspace_memory.bytes(), shares);
    kokomo::Tape<Exec> tape(tape_memory.data(), tape_memory.bytes());

    auto const hidden = m_layer.sizes().hidden;
    Batch2D const x = matrix(batch.x, batch.tokens, hidden), y = matrix({}, batch.tokens, hidden);
    Batch2D const router = matrix(batch.router_input, batch.tokens, m_layer.sizes().router_width);
    Kokkos::View<index_t*, Kokkos::LayoutRight, Exec> const mask("mask", batch.mask.size());
    upload(mask, {batch.mask.begin(), batch.mask.end()});
    typename LayerT::Inputs inputs;
    inputs.x = x;
    if (!batch.router_input.empty()) inputs.router_input = router;
    if (!batch.mask.empty()) inputs.token_mask = mask;
    inputs.mode = batch.mode;
    inputs.step = batch.step;
    m_layer.forward(exec, p, s, inputs, y, workspace, tape);

    Result result;
    if (pass == Pass::forward_and_backward) {
      grads.for_each([](std::string const&, auto const& view) { poison(view); });
      poison(exec, workspace.data(), workspace.bytes());
      Batch2D const dy = matrix(batch.dy, batch.tokens, hidden), dx = matrix({}, batch.tokens, hidden);
      Batch2D const d_router = matrix({}, batch.tokens, m_layer.sizes().router_width);
      typename LayerT::InputGradients d_inputs;
      d_inputs.x = dx;
      if (!batch.router_input.empty()) d_inputs.router_input = d_router;
      m_layer.backward(exec, p, s, inputs, dy, d_inputs, grads, workspace, tape);
      result.dx = download<double>(dx);
      if (!batch.router_input.empty()) result.d_router_input = download<double>(d_router);
      result.gradients = tensors_of(grads);
    }
    read(result, m_layer.saved(tape));
    result.y = download<double>(y);
    result.status = m_layer.status(exec, tape);
    state = tensors_of(s);
    result.guards_intact = workspace_memory.intact() && tape_memory.intact();
    return result;
  }

  void step() override {
    Exec const exec;
    auto const s = m_layer.make_state(exec);
    upload_all(s, state);
    m_layer.step(exec, s);
    state = tensors_of(s);
  }

private:
  static std::size_t worker_bytes() {
    return std::size_t(kokomo::detail::product_scratch_bytes<kokomo::compute_t<T>, Exec>());
  }
  /// Poisoned where no values are given.
  static Batch2D matrix(std::vector<double> const& values, offset_t rows, offset_t columns) {
    Batch2D const view("matrix", std::size_t(rows), std::size_t(columns));
    if (values.empty())
      poison(view);
    else
      upload(view, values);
    return view;
  }
  template <class Saved> static void read(Result& result, Saved const& saved) {
    auto const& a = saved.assignment;
    result.logits = download<double>(saved.logits);
    result.loss = download<double>(saved.loss).at(0);
    result.token_offsets = download<offset_t>(a.token_offsets);
    result.expert_offsets = download<offset_t>(a.expert_offsets);
    result.expert = download<index_t>(a.expert);
    result.weight = download<double>(a.weight);
    result.row = download<index_t>(a.row);
    result.entry_of_row = download<index_t>(a.entry_of_row);
    result.token_of_row = download<index_t>(a.token_of_row);
    result.expert_of_row = download<index_t>(a.expert_of_row);
    result.weight_of_row = download<double>(a.weight_of_row);
  }

  LayerT m_layer;
};

template <class LayerT>
std::unique_ptr<Machine> make_machine(Setup const& setup, typename LayerT::Policies const& policies) {
  kokomo::Shape shape;
  shape.tokens = setup.tokens;
  shape.hidden = setup.hidden;
  shape.experts = setup.experts;
  shape.router_hidden = setup.router_hidden;
  return std::make_unique<MachineOf<LayerT>>(shape, policies);
}

} // namespace properties

#endif
