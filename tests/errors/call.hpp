// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_ERRORS_CALL_HPP
#define KOKOMO_TESTS_ERRORS_CALL_HPP

#include <errors/expect.hpp>
#include <support/compiled.hpp>
#include <support/guarded.hpp>

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

inline void fill(kokomo::test::Tensor const& tensor, double value) {
  tensor.write(kokomo::test::Row(tensor.size, value));
}
/// Bytes of Exec's memory.
inline void append(std::vector<unsigned char>& all, void const* data, std::size_t bytes) {
  if (data == nullptr) return;
  all.resize(all.size() + bytes);
  kokomo::test::copy_from_device(data, all.data() + all.size() - bytes, bytes);
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
    fill(kokomo::test::tensor(y), 3);
    fill(kokomo::test::tensor(dx), 4);
    for (auto const& [name, tensor] : kokomo::test::tensors_of(gradients)) fill(tensor, 5);
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
  for (auto const* const batch : {&call.y, &call.dx, &call.x})
    append(all, batch->data(), batch->size() * sizeof(float));
  append(all, call.tape.data(), call.tape.bytes());
  append(all, call.workspace.data(), call.workspace.bytes());
  for (auto const& views : {kokomo::test::views_of(call.gradients), kokomo::test::views_of(call.parameters),
                            kokomo::test::views_of(call.state)})
    for (auto const& view : views) append(all, view.tensor.data, view.bytes);
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
