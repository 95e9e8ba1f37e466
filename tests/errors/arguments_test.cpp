// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <errors/call.hpp>

#include <kokomo/balancer/selection_bias.hpp>

namespace arguments_test {

/// Every error that a call can throw, on a layer that reads a tensor of its own to route; before any launch, with
/// nothing changed.

using namespace errors;

namespace {

using Biased =
    kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate, kokomo::SelectionBias>;
using Plain = Call<Biased>;

/// The router reads a tensor of 4 columns.
struct Routed : Call<Biased> {
  Rows<float> router{"router", tokens, 4}, d_router{"d_router", tokens, 4};
  Routed() : Call<Biased>({tokens, hidden, experts, 4}) {
    inputs.router_input = router;
    d_inputs.router_input = d_router;
  }
};

template <class C> auto forward(C& call) {
  return [&call] { call.forward(); };
}
template <class C> auto backward(C& call) {
  return [&call] { call.backward(); };
}

} // namespace

TEST_CASE("the calls that the cases below spoil are right") {
  Plain plain;
  REQUIRE_NOTHROW(plain.forward());
  REQUIRE_NOTHROW(plain.backward());
  Routed routed;
  REQUIRE_NOTHROW(routed.forward());
  REQUIRE_NOTHROW(routed.backward());
}

TEST_CASE("201: extents") {
  Plain call;
  Rows<float> const wide("wide", 5, 7), tall("tall", 6, 6), few("few", 4, 6);
  call.inputs.x = wide;
  unchanged(201, call, forward(call), {"x has extents [5, 7]", "expected [5, 6]"});
  call.inputs.x = tall;
  unchanged(201, call, forward(call), {"x has 6 tokens", "at most shape.tokens = 5"});
  call.inputs.x = call.x;
  call.out = few;
  unchanged(201, call, forward(call), {"y has extents [4, 6]", "expected [5, 6]"});
  call.out = call.y;
  call.inputs.token_mask = List<index_t>("mask", 4);
  unchanged(201, call, forward(call), {"inputs.token_mask has extents [4]", "expected [5]"});
  call.inputs.token_mask = {};
  call.inputs.router_input = wide;
  unchanged(201, call, forward(call), {"inputs.router_input has extents [5, 7]", "expected [5, 6]"});
  call.inputs.router_input = {};

  call.forward();
  call.d_out = few;
  unchanged(201, call, backward(call), {"dy has extents [4, 6]", "expected [5, 6]"});
  call.d_out = call.dy;
  call.d_inputs.x = wide;
  unchanged(201, call, backward(call), {"dx has extents [5, 7]", "expected [5, 6]"});

  Routed routed;
  routed.forward();
  routed.d_inputs.router_input = wide;
  unchanged(201, routed, backward(routed), {"d_inputs.router_input has extents [5, 7]", "expected [5, 4]"});
}

TEST_CASE("202: parameters, state and gradients of another layer") {
  Plain call, other({5, 6, 8, 0});
  auto const good = call.parameters;
  call.parameters = other.parameters;
  unchanged(202, call, forward(call), {"parameters: router.weight", "[8, 6, 1]", "expected [4, 6, 1]"});
  call.parameters = {};
  unchanged(202, call, forward(call), {"parameters: router.weight has extents [0, 0, 1]", "expected [4, 6, 1]"});
  call.parameters = call.layer.describe_parameters(); // extents without memory
  unchanged(202, call, forward(call), {"parameters: router.weight", "with memory"});
  call.parameters = good;
  auto biased = sized<Biased>();
  biased.router.scorer.bias = true;
  Plain with_bias({5, 6, 4, 0}, biased);
  call.parameters = with_bias.parameters;
  unchanged(202, call, forward(call), {"parameters: router.bias has extents [4, 1, 1]", "expected"});
  call.parameters = good;
  auto more = sized<Biased>();
  more.experts.bias = true;
  Plain wants_more({5, 6, 4, 0}, more);
  wants_more.parameters = good;
  unchanged(202, wants_more, forward(wants_more), {"parameters holds 3 Views", "expected the 5"});
  auto const state = call.state;
  call.state = other.state;
  unchanged(202, call, forward(call), {"state: balancer.bias", "[8, 1, 1]", "expected [4, 1, 1]"});
  call.state = state;
  call.forward();
  call.gradients = other.gradients;
  unchanged(202, call, backward(call), {"gradients: router.weight", "[8, 6, 1]", "expected [4, 6, 1]"});
}

TEST_CASE("203: something is missing, or there is too much") {
  Plain call;
  call.inputs.x = {};
  unchanged(203, call, forward(call), {"x is missing"});
  call.inputs.x = call.x;
  call.out = {};
  unchanged(203, call, forward(call), {"y is missing"});
  call.out = call.y;
  call.forward();
  call.d_out = {};
  unchanged(203, call, backward(call), {"dy is missing"});
  call.d_out = call.dy;
  call.d_inputs.x = {};
  unchanged(203, call, backward(call), {"dx is missing"});
  call.d_inputs.x = call.dx;
  call.d_inputs.router_input = Rows<float>("d_router", 5, 6);
  unchanged(203, call, backward(call), {"d_inputs.router_input is given", "inputs.router_input is not"});

  Routed routed;
  routed.inputs.router_input = {};
  unchanged(203, routed, forward(routed), {"inputs.router_input is missing", "shape.router_hidden = 4", "hidden = 6"});
  routed.inputs.router_input = routed.router;
  routed.forward();
  routed.d_inputs.router_input = {};
  unchanged(203, routed, backward(routed), {"d_inputs.router_input is missing", "inputs.router_input was given"});
}

TEST_CASE("204: memory that a call writes is used twice") {
  Routed call;
  auto const y_must_not_be = [&](kokomo::MatrixArgument<float, Exec> const& y, std::string const& text) {
    call.out = y;
    unchanged(204, call, forward(call), {"y overlaps " + text, "expected memory of its own"});
    call.out = call.y;
  };
  y_must_not_be(call.x, "x");
  // the last element of one, the first of the other
  Rows<float> const pool("pool", 11, 6);
  call.inputs.x = Rows<float>(pool.data(), 5, 6);
  y_must_not_be(Rows<float>(pool.data() + 29, 5, 6), "x");
  call.out = Rows<float>(pool.data() + 30, 5, 6); // neighbours do not overlap
  REQUIRE_NOTHROW(call.forward());
  call.inputs.x = call.x;
  call.inputs.router_input = Rows<float>(call.y.data(), 5, 4);
  y_must_not_be(call.y, "inputs.router_input");
  call.inputs.router_input = call.router;
  y_must_not_be(Rows<float>(call.parameters.experts.down.data(), 5, 6), "parameters.experts.down");
  y_must_not_be(Rows<float>(reinterpret_cast<float*>(call.workspace.data()), 5, 6), "workspace");
  y_must_not_be(Rows<float>(reinterpret_cast<float*>(call.tape.data()), 5, 6), "tape");
  y_must_not_be(Rows<float>(reinterpret_cast<float*>(call.state.balancer.counts.data()), 5, 6), "state.balancer");
  auto const workspace = call.workspace;
  auto const tape = call.tape;
  call.tape = kokomo::Tape<Exec>(workspace.data(), workspace.bytes());
  unchanged(204, call, forward(call), {"workspace overlaps tape"});
  call.tape = tape;

  call.forward();
  auto const dx_must_not_be = [&](kokomo::MatrixArgument<float, Exec> const& dx, std::string const& text) {
    call.d_inputs.x = dx;
    unchanged(204, call, backward(call), {"dx overlaps " + text, "expected memory of its own"});
    call.d_inputs.x = call.dx;
  };
  dx_must_not_be(call.x, "x");
  dx_must_not_be(call.dy, "dy");
  dx_must_not_be(Rows<float>(call.parameters.experts.down.data(), 5, 6), "parameters.experts.down");
  call.d_inputs.router_input = call.router;
  unchanged(204, call, backward(call), {"d_inputs.router_input overlaps inputs.router_input"});
  call.d_inputs.router_input = Rows<float>(call.dx.data(), 5, 4);
  unchanged(204, call, backward(call), {"dx overlaps d_inputs.router_input"});
  call.d_inputs.router_input = call.d_router;
  auto const gradients = call.gradients;
  call.gradients = call.parameters; // an update in place that nobody gets
  unchanged(204, call, backward(call), {"gradients.router.weight overlaps parameters.router.weight"});
  call.gradients = gradients;
  REQUIRE_NOTHROW(call.backward());
}

TEST_CASE("205: one byte too few") {
  Plain call;
  auto const memory = [](std::size_t bytes) { return List<std::byte>("memory", bytes); };
  auto const space = memory(call.plan.workspace_bytes), tape = memory(call.plan.tape_bytes);
  std::string const needed = "expected at least " + std::to_string(call.plan.workspace_bytes);
  call.forward();
  // Backward needs the most here; forward's own need is found from its text.
  call.workspace = {space.data(), call.plan.workspace_bytes - 1, call.plan.workers};
  unchanged(205, call, backward(call),
            {"the workspace has " + std::to_string(call.plan.workspace_bytes - 1) + " bytes", needed});
  call.workspace = {space.data(), 1, call.plan.workers};
  std::size_t least = 0;
  try {
    call.forward();
  } catch (kokomo::Error const& error) {
    std::string const text = error.what();
    least = std::stoul(text.substr(text.find("at least ") + 9));
  }
  REQUIRE(least > 0);
  call.workspace = {space.data(), least - 1, call.plan.workers};
  unchanged(205, call, forward(call), {std::to_string(least - 1) + " bytes", "at least " + std::to_string(least)});
  call.workspace = {space.data(), least, call.plan.workers};
  REQUIRE_NOTHROW(call.forward());

  call.workspace = {space.data(), call.plan.workspace_bytes, call.plan.workers};
  call.tape = {tape.data(), call.plan.tape_bytes - 1};
  unchanged(205, call, forward(call),
            {"the tape has " + std::to_string(call.plan.tape_bytes - 1) + " bytes",
             "expected at least " + std::to_string(call.plan.tape_bytes)});
  call.tape.record(5, kokomo::Mode::inference, 0);
  expect_error(205, [&] { (void)call.layer.saved(call.tape); }, {"the tape has", "expected at least"});
  call.tape = {tape.data(), call.plan.tape_bytes};
  REQUIRE_NOTHROW(call.forward());
  REQUIRE_NOTHROW(call.backward());

  if (call.plan.workers > 0) { // a host: products share their work out among workers
    call.workspace = {space.data(), call.plan.workspace_bytes, 0};
    unchanged(205, call, forward(call), {"room for 0 workers", "expected at least 1"});
    call.workspace = {space.data(), call.plan.workspace_bytes, -3};
    unchanged(205, call, forward(call), {"room for -3 workers"});
  }
}

TEST_CASE("206: memory that is not aligned") {
  List<std::byte> const memory("memory", 256);
  auto const address = std::to_string(reinterpret_cast<std::uintptr_t>(memory.data()) + 8);
  expect_error(206, [&] { kokomo::Workspace<Exec>(memory.data() + 8, 64, 1); },
               {"workspace memory is at address " + address, "expected a multiple of 64"});
  expect_error(206, [&] { kokomo::Tape<Exec>(memory.data() + 8, 64); }, {"tape memory is at address " + address});
}

TEST_CASE("207: a tape that does not hold this forward pass") {
  Plain call;
  unchanged(207, call, backward(call), {"the tape holds -1 tokens", "expected those of x: 5"});
  expect_error(207, [&] { (void)call.layer.saved(call.tape); }, {"the tape holds -1 tokens", "a forward pass"});
  call.forward();
  call.inputs.x = Rows<float>(call.x.data(), 4, 6);
  unchanged(207, call, backward(call), {"the tape holds 5 tokens", "expected those of x: 4"});
  Plain small({4, 6, 4, 0});
  expect_error(207, [&] { (void)small.layer.status(small.exec, call.tape); }, {"the tape holds 5 tokens"});
}

TEST_CASE("301: rows that are not contiguous") {
  Plain call;
  Kokkos::View<float**, Kokkos::LayoutLeft, Exec> const left("left", 5, 6);
  Rows<float> const pool("pool", 10, 12);
  auto const columns = Kokkos::subview(pool, std::pair(0, 5), std::pair(2, 8));
  Kokkos::View<float**, Kokkos::LayoutStride, Exec> const skipping(
      pool.data(), Kokkos::LayoutStride(5, 12, 6, 2)); // every other column
  call.inputs.x = left;
  unchanged(301, call, forward(call), {"x has strides [1, 5]", "contiguous row-major View of extents [5, 6]"});
  call.inputs.x = columns;
  unchanged(301, call, forward(call), {"x has strides [12, 1]"});
  call.inputs.x = skipping;
  unchanged(301, call, forward(call), {"x has strides [12, 2]"});
  call.inputs.x = call.x;
  call.out = columns;
  unchanged(301, call, forward(call), {"y has strides [12, 1]"});
  call.out = call.y;
  Kokkos::View<index_t*, Kokkos::LayoutStride, Exec> const mask(List<index_t>("mask", 10).data(),
                                                                Kokkos::LayoutStride(5, 2));
  call.inputs.token_mask = mask;
  unchanged(301, call, forward(call), {"inputs.token_mask has strides [2]"});
  call.inputs.token_mask = {};
  call.forward();
  call.d_inputs.x = left;
  unchanged(301, call, backward(call), {"dx has strides [1, 5]"});
  call.d_inputs.x = call.dx;
  call.d_out = columns;
  unchanged(301, call, backward(call), {"dy has strides [12, 1]"});
}

TEST_CASE("a strided View whose rows happen to be contiguous is fine") {
  Plain call;
  Rows<float> const pool("pool", 10, 6);
  call.inputs.x = Kokkos::subview(pool, std::pair(2, 7), Kokkos::ALL);
  REQUIRE_NOTHROW(call.forward());
  Kokkos::View<float**, Kokkos::LayoutLeft, Exec> const one_row("one_row", 1, 6);
  call.inputs.x = one_row; // one token: its layout does not matter
  call.out = Rows<float>(call.y.data(), 1, 6);
  REQUIRE_NOTHROW(call.forward());
}

} // namespace arguments_test
