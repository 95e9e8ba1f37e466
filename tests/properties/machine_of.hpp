// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_PROPERTIES_MACHINE_OF_HPP
#define KOKOMO_TESTS_PROPERTIES_MACHINE_OF_HPP

#include <properties/machine.hpp>

#include <support/compiled.hpp>
#include <support/guarded.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/layer.hpp>

namespace properties {

using kokomo::test::Guarded, kokomo::test::NamedView, kokomo::test::poison_numbers, kokomo::test::views_of;

void upload(kokomo::test::Tensor const& tensor, std::vector<double> const& values);
template <class View> void upload(View const& view, std::vector<double> const& values) {
  upload(kokomo::test::tensor(view), values);
}
template <class View> std::vector<double> download(View const& view) {
  return kokomo::test::tensor(view).read();
}

void read_assignment(Result& result, kokomo::test::HostAssignment const& assignment);
Tensors tensors_of(std::vector<NamedView> const& views);
void upload_all(std::vector<NamedView> const& views, Tensors const& tensors);

template <class LayerT> class MachineOf final : public Machine {
public:
  using T = typename LayerT::Storage;
  using Exec = typename LayerT::Exec;
  using Batch2D = Kokkos::View<T**, Kokkos::LayoutRight, Exec>;

  MachineOf(kokomo::Shape const& shape, typename LayerT::Policies const& policies) : m_layer(shape, policies) {
    static_assert(std::is_same_v<Exec, kokomo::test::Exec>);
    parameters = tensors_of(views_of(m_layer.make_parameters(Exec{})));
    state = tensors_of(views_of(m_layer.make_state(Exec{})));
    unsigned seed = 77;
    for (auto& [name, tensor] : parameters) tensor.values = random_numbers(tensor.values.size(), ++seed, 0.5);
  }

  kokomo::Sizes const& sizes() const override { return m_layer.sizes(); }

  Result run(Batch const& batch, Pass pass) override {
    Exec const exec = partition ? Kokkos::Experimental::partition_space(Exec{}, 1, 1)[0] : Exec{};
    auto const p = m_layer.make_parameters(exec), grads = m_layer.make_parameters(exec);
    auto const s = m_layer.make_state(exec);
    upload_all(views_of(p), parameters);
    upload_all(views_of(s), state);
    auto plan = m_layer.plan(exec);
    int const shares = workers > 0 ? workers : plan.workers;
    // a workspace for another number of workers than the instance has: its part for each is all alike
    if (plan.workers > 0)
      plan.workspace_bytes += std::size_t(shares) * worker_bytes() - std::size_t(plan.workers) * worker_bytes();
    Guarded const workspace_memory(plan.workspace_bytes), tape_memory(plan.tape_bytes);
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
      for (auto const& view : views_of(grads)) poison_numbers(view.tensor.data, view.bytes);
      poison_numbers(workspace.data(), workspace.bytes());
      Batch2D const dy = matrix(batch.dy, batch.tokens, hidden), dx = matrix({}, batch.tokens, hidden);
      Batch2D const d_router = matrix({}, batch.tokens, m_layer.sizes().router_width);
      typename LayerT::InputGradients d_inputs;
      d_inputs.x = dx;
      if (!batch.router_input.empty()) d_inputs.router_input = d_router;
      m_layer.backward(exec, p, s, inputs, dy, d_inputs, grads, workspace, tape);
      result.dx = download(dx);
      if (!batch.router_input.empty()) result.d_router_input = download(d_router);
      result.gradients = tensors_of(views_of(grads));
    }
    read(result, m_layer.saved(tape));
    result.y = download(y);
    result.status = m_layer.status(exec, tape);
    state = tensors_of(views_of(s));
    result.guards_intact = workspace_memory.intact() && tape_memory.intact();
    return result;
  }

  void step() override {
    Exec const exec;
    auto const s = m_layer.make_state(exec);
    upload_all(views_of(s), state);
    m_layer.step(exec, s);
    state = tensors_of(views_of(s));
  }

private:
  static std::size_t worker_bytes() {
    return std::size_t(kokomo::detail::product_scratch_bytes<kokomo::compute_t<T>, Exec>());
  }
  /// Poisoned where no values are given.
  static Batch2D matrix(std::vector<double> const& values, offset_t rows, offset_t columns) {
    Batch2D const view("matrix", std::size_t(rows), std::size_t(columns));
    if (values.empty())
      poison_numbers(view);
    else
      upload(view, values);
    return view;
  }
  template <class Saved> static void read(Result& result, Saved const& saved) {
    result.logits = download(saved.logits);
    result.loss = download(saved.loss).at(0);
    read_assignment(result, kokomo::test::on_host(saved.assignment));
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
