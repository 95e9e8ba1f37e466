// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/capacity/capacity.hpp>
#include <kokomo/combine/normalized_sum.hpp>
#include <kokomo/experts/row_norm.hpp>
#include <kokomo/experts/with_identity.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/group_limited_top_k.hpp>
#include <kokomo/space/latent.hpp>

namespace layer_test {

using namespace kokomo;
using namespace kokomo::test;

/// A policy in every slot.
using Full =
    Layer<Router<LinearScorer, GroupLimitedTopK<>>, NormalizedSigmoidGate, Balancers<SelectionBias, LoadBalancingLoss>,
          WithShared<WithIdentity<RowNorm<SwiGluExperts>>, SigmoidShare>, double, Exec, NormalizedSum, Latent,
          Capacity>;

Full::Policies full() {
  Full::Policies policies;
  policies.router.scorer = {.bias = true, .softcap = 3};
  policies.router.selector = {.k = 3, .groups = 3, .allowed_groups = 2};
  policies.gate = {.scale = 1.5f, .expert_scales = true};
  std::get<1>(policies.balancer.parts) = {.coefficient = 0.5f, .top_k = 3, .tokens_per_sequence = 4};
  policies.experts.routed = {.inner = {.inner = {.intermediate = 2, .bias = true}, .epsilon = 0.1f}, .identity = 2};
  policies.experts.shared = {.intermediate = 2};
  policies.capacity = {.order = CapacityOrder::score, .places = 3};
  policies.space = {.size = 3, .norm = true, .epsilon = 0.1f};
  policies.combine = {.routed_scale = 0.5f, .epsilon = 0.1f};
  return policies;
}

TEST_CASE("a layer with a policy in every slot equals the reference") {
  check_shapes<Full>({{.tokens = 1, .hidden = 1, .experts = 4},
                      {.tokens = 9, .hidden = 4, .experts = 4},
                      {.tokens = 150, .hidden = 5, .experts = 7}},
                     [](Shape const&) { return full(); });
}

TEST_CASE("a layer with a policy in every slot: gradients equal central differences") {
  Fixture<Full> fixture({.tokens = 9, .hidden = 4, .experts = 4}, full());
  fixture.set_mask({1, 1, 1, 0, 1, 1, 1, 1, 1});
  check_gradients(fixture);
  REQUIRE(fixture.result().dropped > 0);
}

TEST_CASE("a layer with a policy in every slot reads another tensor for its router") {
  Fixture<Full> fixture({.tokens = 7, .hidden = 4, .experts = 4, .router_hidden = 3}, full());
  check_forward(fixture);
  check_gradients(fixture);
}

TEST_CASE("a call may bring fewer tokens than the layer's shape, down to none") {
  for (offset_t const tokens : {0, 1, 5}) {
    Fixture<Full> fixture({.tokens = 40, .hidden = 4, .experts = 4}, full(), 1, tokens);
    check_forward(fixture);
    check_gradients(fixture);
  }
}

TEST_CASE("no tokens: gradients are zero when overwritten and stay when added to") {
  Fixture<Full> fixture({.tokens = 0, .hidden = 4, .experts = 4}, full());
  fixture.forward();
  fixture.backward();
  for (auto const& [name, gradient] : gradients_of(fixture)) {
    INFO(name);
    CHECK(norm(gradient) == 0);
  }
  fixture.gradients.for_each([&](std::string const&, auto const& view) { fixture.fill(view); });
  auto const before = gradients_of(fixture);
  fixture.forward();
  fixture.backward(Write::add);
  REQUIRE(gradients_of(fixture) == before);
}

using Small = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, double, Exec>;

TEST_CASE("two layers take turns with one workspace") {
  Fixture<Full> first({.tokens = 9, .hidden = 4, .experts = 4}, full());
  Fixture<Small> second({.tokens = 20, .hidden = 6, .experts = 3}, {.experts = {.intermediate = 5}});
  Workspace<Exec> const shared(first.exec, first.layer.plan(first.exec).max(second.layer.plan(second.exec)));
  first.forward(), second.forward();
  first.backward(), second.backward();
  auto const y_of_first = first.result().y, y_of_second = second.result().y;
  auto const of_first = gradients_of(first), of_second = gradients_of(second);

  first.workspace = second.workspace = shared;
  first.forward(), second.forward();
  second.backward(), first.backward();
  REQUIRE(first.result().y == y_of_first);
  REQUIRE(second.result().y == y_of_second);
  REQUIRE(gradients_of(first) == of_first);
  REQUIRE(gradients_of(second) == of_second);
}

TEST_CASE("backward follows its own tape, also after a second forward with another one") {
  Fixture<Full> fixture({.tokens = 9, .hidden = 4, .experts = 4}, full());
  fixture.forward();
  fixture.backward();
  auto const expected = gradients_of(fixture);

  fixture.forward();
  auto const first_tape = fixture.tape;
  auto const first_x = to_host(fixture.x);
  fixture.tape = Tape<Exec>(fixture.exec, fixture.layer.plan(fixture.exec));
  fixture.fill(fixture.x);
  fixture.forward();
  auto const second = fixture.result();
  to_device(first_x, fixture.x);
  fixture.tape = first_tape;
  fixture.backward();
  REQUIRE(gradients_of(fixture) == expected);
  REQUIRE(fixture.result().logits != second.logits);
}

TEST_CASE("backward writes nothing but gradients: it can be repeated") {
  Fixture<Full> fixture({.tokens = 9, .hidden = 4, .experts = 4}, full());
  fixture.forward();
  fixture.backward();
  auto const once = gradients_of(fixture);
  fixture.backward();
  REQUIRE(gradients_of(fixture) == once);
}

TEST_CASE("the caller's own memory serves as workspace and tape") {
  Fixture<Full> fixture({.tokens = 9, .hidden = 4, .experts = 4}, full());
  check_forward(fixture);
  auto const expected = fixture.result().y;
  auto const plan = fixture.layer.plan(fixture.exec);
  // Kokkos aligns allocations of this size to 64 bytes
  Kokkos::View<std::byte*, Exec> workspace("workspace", plan.workspace_bytes), tape("tape", plan.tape_bytes);
  fixture.workspace = Workspace<Exec>(workspace.data(), plan.workspace_bytes, plan.workers);
  fixture.tape = Tape<Exec>(tape.data(), plan.tape_bytes);
  fixture.forward();
  REQUIRE(fixture.result().y == expected);
}

TEST_CASE("NaN and infinite logits rank last and are counted") {
  Fixture<Small> fixture({.tokens = 4, .hidden = 1, .experts = 4}, {.experts = {.intermediate = 2}});
  double const inf = reference::infinity, nan = std::numeric_limits<double>::quiet_NaN();
  to_device(std::vector<double>{1, 2, 3, 4}, fixture.parameters.router.weight);
  to_device(std::vector<double>{1, nan, 1, inf}, fixture.x);
  fixture.forward();
  auto const out = fixture.result();
  REQUIRE(out.choice == std::vector<std::vector<int>>{{3, 2}, {0, 1}, {3, 2}, {0, 1}});
  REQUIRE(fixture.layer.status(fixture.exec, fixture.tape).non_finite_logits == 8);
  check_grouping(fixture);
}

} // namespace layer_test
