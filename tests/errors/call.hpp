// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_ERRORS_CALL_HPP
#define KOKOMO_TESTS_ERRORS_CALL_HPP

#include <errors/expect.hpp>

#include <kokomo/layer.hpp>

#include <cstring>
#include <vector>

namespace errors {

using kokomo::index_t;
using kokomo::offset_t;
using Exec = Kokkos::DefaultExecutionSpace;
template <class T> using Rows = Kokkos::View<T**, Kokkos::LayoutRight, Exec>;
template <class T> using List = Kokkos::View<T*, Kokkos::LayoutRight, Exec>;

template <class LayerT> typename LayerT::Policies sized(typename LayerT::Policies policies = {}) {
  policies.experts.intermediate = 3;
  if constexpr (requires { policies.router.selector.vocabulary; }) policies.router.selector.vocabulary = 9;
  return policies;
}

/// A layer with all that a call needs, every bit of it right. Tests spoil one thing.
template <class LayerT> struct Call {
  static constexpr offset_t tokens = 5, hidden = 6, experts = 4;

  Exec exec{};
  LayerT layer;
  typename LayerT::Parameters parameters, gradients;
  typename LayerT::State state;
  kokomo::Plan plan;
  kokomo::Workspace<Exec> workspace;
  kokomo::Tape<Exec> tape;
  Rows<float> x{"x", tokens, hidden}, y{"y", tokens, hidden}, dy{"dy", tokens, hidden}, dx{"dx", tokens, hidden};
  typename LayerT::Inputs inputs{};
  typename LayerT::InputGradients d_inputs{};
  kokomo::MatrixArgument<float, Exec> out{};
  kokomo::MatrixArgument<float const, Exec> d_out{};

  explicit Call(kokomo::Shape const& shape = {tokens, hidden, experts, 0},
                typename LayerT::Policies const& policies = sized<LayerT>())
      : layer(shape, policies), parameters(layer.make_parameters(exec)), gradients(layer.make_parameters(exec)),
        state(layer.make_state(exec)), plan(layer.plan(exec)), workspace(exec, plan), tape(exec, plan) {
    Kokkos::deep_copy(y, 3.0f);
    Kokkos::deep_copy(dx, 4.0f);
    gradients.for_each([](std::string const&, auto const& view) { Kokkos::deep_copy(view, 5); });
    inputs.x = x;
    out = y;
    d_out = dy;
    d_inputs.x = dx;
  }

  void forward() { layer.forward(exec, parameters, state, inputs, out, workspace, tape); }
  void backward() { layer.backward(exec, parameters, state, inputs, d_out, d_inputs, gradients, workspace, tape); }
};

/// The bytes of everything that a call may write, and what its tape says that it holds.
template <class LayerT> std::vector<unsigned char> bytes_of(Call<LayerT> const& call) {
  call.exec.fence("tests: before looking");
  std::vector<unsigned char> all;
  auto const add = [&](void const* data, std::size_t bytes) {
    Kokkos::View<unsigned char const*, typename Exec::memory_space, Kokkos::MemoryUnmanaged> const view(
        static_cast<unsigned char const*>(data), bytes);
    auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, view);
    all.insert(all.end(), host.data(), host.data() + bytes);
  };
  auto const add_view = [&](auto const& view) {
    if (view.data() != nullptr)
      add(view.data(), view.span() * sizeof(typename std::decay_t<decltype(view)>::value_type));
  };
  add_view(call.y), add_view(call.dx), add_view(call.x);
  add(call.tape.data(), call.tape.bytes());
  add(call.workspace.data(), call.workspace.bytes());
  call.gradients.for_each([&](std::string const&, auto const& view) { add_view(view); });
  call.parameters.for_each([&](std::string const&, auto const& view) { add_view(view); });
  call.state.for_each([&](std::string const&, auto const& view) { add_view(view); });
  offset_t const held = call.tape.tokens();
  all.insert(all.end(), reinterpret_cast<unsigned char const*>(&held),
             reinterpret_cast<unsigned char const*>(&held + 1));
  return all;
}

/// f throws as expect_error says, and no output, gradient, state, workspace or tape has changed.
template <class LayerT, class F>
void unchanged(int id, Call<LayerT>& call, F const& f, std::initializer_list<std::string> parts) {
  auto const before = bytes_of(call);
  expect_error(id, f, parts);
  REQUIRE(bytes_of(call) == before);
}

} // namespace errors

#endif
