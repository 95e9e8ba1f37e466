// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_DISCIPLINE_CHECK_HPP
#define KOKOMO_TESTS_DISCIPLINE_CHECK_HPP

#include <discipline/busy.hpp>
#include <discipline/watch.hpp>
#include <properties/machine.hpp>
#include <support/catch.hpp>
#include <support/guarded.hpp>
#include <support/layer_fixture.hpp>

#include <functional>

namespace discipline {

using kokomo::index_t;
using kokomo::offset_t;

/// Allocates nothing, fences nothing, copies nothing; kernels are named and run on `exec`.
void require_disciplined(kokomo::test::Exec const& exec, std::string const& what, std::function<void()> const& f);
void require_finite(std::string const& name, kokomo::test::Tensor const& tensor);

/// forward, backward and step of a composition, in memory of exactly the planned size, with everything that they write
/// poisoned before.
template <class LayerT>
void check(typename LayerT::Policies const& policies, offset_t tokens = 33, offset_t router_hidden = 0,
           offset_t experts = 8) {
  using T = typename LayerT::Storage;
  using Exec = typename LayerT::Exec;
  using Rows = Kokkos::View<T**, Kokkos::LayoutRight, Exec>;
  kokomo::Shape shape;
  shape.tokens = 40;
  shape.hidden = 12;
  shape.experts = experts;
  shape.router_hidden = router_hidden;
  LayerT const layer(shape, policies);

  Exec const exec = Kokkos::Experimental::partition_space(Exec{}, 1)[0];
  REQUIRE(exec != Exec{});
  auto const parameters = layer.make_parameters(exec), gradients = layer.make_parameters(exec);
  auto const state = layer.make_state(exec);
  exec.fence("tests: parameters are there");
  unsigned seed = 0;
  for (auto const& view : kokomo::test::views_of(parameters))
    view.tensor.write(properties::random_numbers(view.tensor.size, ++seed, 0.5));
  auto const all_gradients = kokomo::test::views_of(gradients);
  for (auto const& view : all_gradients) kokomo::test::poison_numbers(view.tensor.data, view.bytes);

  auto const random = [&](offset_t rows, offset_t columns) {
    Rows const view("random", std::size_t(rows), std::size_t(columns));
    kokomo::test::tensor(view).write(properties::random_numbers(view.size(), ++seed));
    return view;
  };
  Rows const x = random(tokens, 12), dy = random(tokens, 12), router = random(tokens, router_hidden);
  Rows const y("y", std::size_t(tokens), 12), dx("dx", std::size_t(tokens), 12);
  Rows const d_router("d_router", std::size_t(tokens), std::size_t(router_hidden));
  kokomo::test::poison_numbers(y), kokomo::test::poison_numbers(dx), kokomo::test::poison_numbers(d_router);
  Kokkos::View<offset_t*, Kokkos::LayoutRight, Exec> const ids("ids", std::size_t(tokens));
  Kokkos::View<index_t*, Kokkos::LayoutRight, Exec> const mask("mask", std::size_t(tokens));
  kokomo::test::tensor(ids).write(properties::random_numbers(ids.size(), ++seed, 4)); // some of them negative
  kokomo::test::tensor(mask).write(properties::random_numbers(mask.size(), ++seed, 4));
  typename LayerT::Inputs inputs;
  typename LayerT::InputGradients d_inputs;
  inputs.x = x;
  inputs.token_mask = mask;
  inputs.mode = kokomo::Mode::training;
  d_inputs.x = dx;
  if (router_hidden > 0) inputs.router_input = router, d_inputs.router_input = d_router;
  Kokkos::View<index_t**, Kokkos::LayoutRight, Exec> const given("given", std::size_t(tokens),
                                                                 std::size_t(layer.sizes().per_token));
  Rows previous_states; // outlives the calls that read it
  if constexpr (requires { inputs.scorer.previous_states; }) {
    previous_states = random(tokens, policies.router.scorer.state_size);
    inputs.scorer.previous_states = previous_states;
  }
  if constexpr (requires { inputs.selector.token_ids; }) inputs.selector.token_ids = ids;
  if constexpr (requires { inputs.selector.experts; }) inputs.selector.experts = given;

  auto const plan = layer.plan(exec);
  kokomo::test::Guarded const workspace_memory(plan.workspace_bytes), tape_memory(plan.tape_bytes);
  kokomo::Workspace<Exec> const workspace(workspace_memory.data(), workspace_memory.bytes(), plan.workers);
  kokomo::Tape<Exec> tape(tape_memory.data(), tape_memory.bytes());

  auto const forward = [&] { layer.forward(exec, parameters, state, inputs, y, workspace, tape); };
  auto const backward = [&] {
    layer.backward(exec, parameters, state, inputs, dy, d_inputs, gradients, workspace, tape);
  };
  auto const step = [&] { layer.step(exec, state); };
  require_disciplined(exec, "forward", forward);
  kokomo::test::poison_numbers(workspace.data(), workspace.bytes()); // nothing in it outlives a call
  require_disciplined(exec, "backward", backward);
  if constexpr (requires(typename LayerT::Balancer const& balancer) {
                  balancer.template step<T>(exec, state.balancer);
                })
    require_disciplined(exec, "step", step);
  if constexpr (std::is_same_v<typename Exec::memory_space, Kokkos::HostSpace>) {
    // Where instances have no ids: nothing waits for the default one.
    Busy<Exec> busy(std::chrono::seconds(30));
    forward(), backward(), step();
    exec.fence("tests: the calls' work is done");
    CHECK(busy.stop());
  }

  CHECK(workspace_memory.intact());
  CHECK(tape_memory.intact());
  require_finite("y", kokomo::test::tensor(y));
  require_finite("dx", kokomo::test::tensor(dx));
  require_finite("d_router_input", kokomo::test::tensor(d_router));
  for (auto const& view : all_gradients) require_finite(view.name, view.tensor);
}

} // namespace discipline

#endif
