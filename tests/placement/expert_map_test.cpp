// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <kokomo/placement/expert_map.hpp>
#include <kokomo/placement/one_to_one.hpp>

#include <support/catch.hpp>
#include <support/layer_fixture.hpp>
#include <support/routing_fixture.hpp>

namespace expert_map_test {

using namespace kokomo;
using namespace kokomo::test;

/// A table on a batch: what the map makes of what was chosen and weighed.
struct Placed {
  RoutingFixture<> f;
  TiedExperts map;
  state_t<TiedExperts, double, Exec> state;
  saved_t<TiedExperts, double, Exec> saved;

  Placed(RoutingFixture<> fixture, TiedExperts settings, std::vector<index_t> const& slots, bool apart = false)
      : f(std::move(fixture)), map(settings), state(f.state_of(map)), saved(f.saved_of(map)) {
    detail::check_settings(map, f.sizes);
    to_device(slots, state.slot_of_expert);
    map.place<double>(f.exec, f.routing, state, f.assignment, saved,
                      f.laid_out<scratch_t<TiedExperts, double, Exec>>(map), apart);
    f.exec.fence();
  }
  HostAssignment executed() const { return on_host(saved.executed); }
};

RoutingFixture<> routed(Rows const& logits, int k, index_t weighted = 0) {
  RoutingFixture<> f(logits);
  if (weighted > 0) f.sizes.weighted = weighted;
  f.select<SoftmaxScore>(TopK<>{.k = k});
  f.weigh(SoftmaxGate{});
  return f;
}

Rows random_rows(std::size_t rows, std::size_t columns, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  Rows all(rows, Row(columns));
  for (auto& row : all)
    for (double& value : row) value = normal(engine);
  return all;
}

TEST_CASE("ExpertMap makes one entry of a token's choices that lie in one place, with the sum of their weights") {
  std::vector<index_t> const slots{2, 0, 1, 0, 2, 2};
  Placed const p(routed(random_rows(90, 6, 3), 3), {.stored = 3}, slots);
  auto const chosen = on_host(p.f.assignment), executed = p.executed();
  check_grouping(executed);
  std::vector<index_t> carrier = to_host(p.saved.carrier);
  offset_t calls = 0;
  for (offset_t t = 0; t < chosen.tokens; ++t) {
    std::vector<double> sum(3, 0.0);
    std::vector<int> entries(3, 0);
    for (offset_t i = chosen.token_offsets[t]; i < chosen.token_offsets[t + 1]; ++i) {
      sum[slots[chosen.expert[i]]] += chosen.weight[i];
      REQUIRE(executed.expert[carrier[i]] == slots[chosen.expert[i]]);
    }
    for (offset_t i = executed.token_offsets[t]; i < executed.token_offsets[t + 1]; ++i) {
      if (executed.row[i] == none) continue;
      ++calls;
      ++entries[executed.expert[i]];
      REQUIRE(executed.weight[i] == sum[executed.expert[i]]); // the same additions in the same order
    }
    for (int s = 0; s < 3; ++s) REQUIRE(entries[s] == (sum[s] > 0 ? 1 : 0));
  }
  REQUIRE(calls < 90 * 3);
  REQUIRE(calls == executed.expert_offsets.back());
}

TEST_CASE("ExpertMap leaves choices apart where merging is off or the weight is on the input") {
  std::vector<index_t> const slots{0, 0, 0, 1};
  for (bool const on_input : {false, true}) {
    Placed const p(routed(random_rows(20, 4, 5), 3), {.stored = 2, .merge = on_input}, slots, on_input);
    auto const chosen = on_host(p.f.assignment), executed = p.executed();
    check_grouping(executed);
    REQUIRE(executed.expert_offsets.back() == 60);
    REQUIRE(executed.weight == chosen.weight);
  }
}

TEST_CASE("ExpertMap: experts without weights follow behind the places, dropped and masked choices stay away") {
  auto f = routed({{5, 4, 0, 0, 9}, {5, 4, 0, 0, 9}, {5, 4, 3, 0, 0}}, 3, 4); // expert 4 is an identity
  f.assignment.row[1] = none; // dropped: the first token's second choice, expert 0
  Placed const p(std::move(f), {.stored = 2}, {0, 0, 1, 1});
  auto const executed = p.executed();
  REQUIRE(executed.experts == 3);
  REQUIRE(executed.expert == std::vector<index_t>{2, none, 0, 2, 0, none, 0, none, 1});
  check_grouping(executed);
}

TEST_CASE("ExpertMap: an expert without a place is not executed and counted, never out of range") {
  Placed const p(routed({{3, 2, 1}, {1, 2, 3}}, 2), {.stored = 2}, {none, 1, 7});
  auto const executed = p.executed();
  REQUIRE(executed.expert == std::vector<index_t>{none, 1, none, 1});
  REQUIRE(p.f.status().invalid_ids == 2);
  REQUIRE(executed.expert_offsets == std::vector<offset_t>{0, 0, 2});
}

TEST_CASE("ExpertMap: no tokens, one token, one expert") {
  REQUIRE(Placed(routed(Rows{}, 1), {.stored = 1}, {0}).executed().expert_offsets == std::vector<offset_t>{0, 0});
  REQUIRE(Placed(routed({{1}}, 1), {.stored = 1}, {0}).executed().expert == std::vector<index_t>{0});
  auto const all = Placed(routed({{1, 2, 3}}, 3), {.stored = 1}, {0, 0, 0}).executed(); // k = E, one place
  REQUIRE(all.expert_offsets == std::vector<offset_t>{0, 1});
  REQUIRE(std::abs(all.weight_of_row[0] - 1) < 1e-15);
}

TEST_CASE("ExpertMap refuses a number of places that there cannot be, and a table that names one") {
  RoutingFixture<> f({{1, 2, 3}});
  for (index_t const stored : {0, -1, 4}) REQUIRE_THROWS_AS(TiedExperts{.stored = stored}.check(f.sizes), Error);
  TiedExperts const map{.stored = 2};
  auto const state = f.state_of(map);
  map.set<double>(f.exec, state, {1, none, 0});
  REQUIRE(to_host(state.slot_of_expert) == std::vector<index_t>{1, none, 0});
  REQUIRE_THROWS_AS(map.set<double>(f.exec, state, {1, 2, 0}), Error);
  REQUIRE_THROWS_AS(map.set<double>(f.exec, state, {1, 0}), Error);
}

using Plain = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, double, Exec>;
using Tied = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, double, Exec, TiedExperts>;

template <class A, class B> double distance(A const& a, B const& b) {
  return relative_error(tensor(a).read(), tensor(b).read());
}

TEST_CASE(
    "Tied experts compute what as many experts with equal weights do, with fewer calls, and so does their gradient") {
  Shape const shape{.tokens = 70, .hidden = 12, .experts = 6};
  std::vector<index_t> const slots{1, 0, 1, 2, 0, 1};
  Fixture<Plain> plain(shape, {.router = {.selector = {.k = 3}}, .experts = {.intermediate = 10}}, 7);
  Fixture<Tied> tied(
      shape, {.router = {.selector = {.k = 3}}, .experts = {.intermediate = 10}, .placement = {.stored = 3}}, 7);
  auto const copy = [&](auto const& many, auto const& few) {
    for (std::size_t e = 0; e < slots.size(); ++e)
      for (std::size_t i = 0; i < many.extent(1); ++i)
        for (std::size_t j = 0; j < many.extent(2); ++j) many(e, i, j) = few(slots[e], i, j);
  };
  Kokkos::deep_copy(plain.x, tied.x);
  Kokkos::deep_copy(plain.dy, tied.dy);
  Kokkos::deep_copy(plain.parameters.router.weight, tied.parameters.router.weight);
  copy(plain.parameters.experts.gate_up, tied.parameters.experts.gate_up);
  copy(plain.parameters.experts.down, tied.parameters.experts.down);
  to_device(slots, tied.state.placement.slot_of_expert);
  plain.forward(), plain.backward();
  auto const calls = [](auto const& f) {
    return to_host(f.layer.saved(f.tape).placement.executed.expert_offsets).back();
  };
  auto const compare = [&] { // float64: sums of at most 70 * 3 terms in another order
    REQUIRE(distance(tied.y, plain.y) < 1e-13);
    REQUIRE(distance(tied.dx, plain.dx) < 1e-13);
    REQUIRE(distance(tied.gradients.router.weight, plain.gradients.router.weight) < 1e-13);
    auto const check = [&](auto const& few, auto const& many) { // the gradient of what is shared is a sum
      std::remove_cvref_t<decltype(few)> const sum("sum", few.extent(0), few.extent(1), few.extent(2));
      for (std::size_t e = 0; e < slots.size(); ++e)
        for (std::size_t i = 0; i < many.extent(1); ++i)
          for (std::size_t j = 0; j < many.extent(2); ++j) sum(slots[e], i, j) += many(e, i, j);
      REQUIRE(distance(few, sum) < 1e-13);
    };
    check(tied.gradients.experts.gate_up, plain.gradients.experts.gate_up);
    check(tied.gradients.experts.down, plain.gradients.experts.down);
  };
  tied.forward(), tied.backward();
  compare();
  offset_t const merged = calls(tied);
  REQUIRE(merged < 70 * 3);

  auto policies = tied.layer.policies();
  policies.placement.merge = false;
  tied.layer = Tied(shape, policies);
  tied.forward(), tied.backward();
  compare();
  REQUIRE(calls(tied) == 70 * 3);
  check_grouping(tied); // of the router's experts
}

TEST_CASE("The two halves of forward are forward") {
  Fixture<Tied> f({.tokens = 9, .hidden = 4, .experts = 3},
                  {.router = {.selector = {.k = 2}}, .experts = {.intermediate = 4}, .placement = {.stored = 2}});
  to_device(std::vector<index_t>{0, 1, 1}, f.state.placement.slot_of_expert);
  f.forward();
  auto const whole = tensor(f.y).read();
  poison(f.workspace), poison(f.tape), poison_view(f.y);
  f.layer.forward_routing(f.exec, f.parameters, f.state, f.inputs(), f.workspace, f.tape);
  poison(f.workspace);
  f.layer.forward_experts(f.exec, f.parameters, f.state, f.inputs(), f.y, f.workspace, f.tape);
  f.exec.fence();
  REQUIRE(tensor(f.y).read() == whole);
  Tape<Exec> const empty(f.exec, f.layer.plan(f.exec));
  REQUIRE_THROWS_AS(f.layer.forward_experts(f.exec, f.parameters, f.state, f.inputs(), f.y, f.workspace, empty), Error);
}

} // namespace expert_map_test
