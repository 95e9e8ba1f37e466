// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/routing_fixture.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/gate/score_gate.hpp>
#include <kokomo/router/input_jitter.hpp>
#include <kokomo/router/replay.hpp>
#include <kokomo/router/self_healing.hpp>
#include <kokomo/router/top_2.hpp>

namespace decorators_test {

using namespace kokomo;
using namespace kokomo::test;

Rows some_logits(std::size_t tokens, std::size_t experts) {
  Rows rows(tokens, Row(experts));
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t e = 0; e < experts; ++e) rows[t][e] = 2 * std::sin(7.3 * double(t + 1) + 3.1 * double(e));
  return rows;
}

/// Selection by a healing top-k with these experts failed.
struct Healing : RoutingFixture<> {
  SelfHealing<TopK<>> policy;

  Healing(Rows const& logits, int k, std::vector<index_t> const& failed) : RoutingFixture(logits), policy{{.k = k}} {
    auto const state = state_of(policy);
    exec.fence();
    to_device(failed, state.failed);
    select<SoftmaxScore>(policy, state, {});
    weigh(NormalizedSoftmaxGate{});
  }
};

TEST_CASE("a failed expert gets no token, reroutes are counted, weights renormalised, other tokens untouched") {
  auto const logits = some_logits(40, 5);
  Healing healthy(logits, 2, {0, 0, 0, 0, 0}), failed(logits, 2, {0, 0, 1, 0, 0});
  RoutingFixture<> plain(logits);
  plain.select<SoftmaxScore>(TopK<>{.k = 2});
  plain.weigh(NormalizedSoftmaxGate{});
  REQUIRE(healthy.chosen() == plain.chosen()); // and so it is after a revival: nothing else is remembered
  REQUIRE(healthy.weights() == plain.weights());
  REQUIRE((healthy.status().rerouted == 0 && healthy.status().escalated == 0));

  offset_t rerouted = 0, executed = 0;
  auto const before = plain.chosen(), after = failed.chosen();
  auto const weights = failed.weights();
  for (std::size_t t = 0; t < logits.size(); ++t) {
    bool const hit = std::find(before[t].begin(), before[t].end(), 2) != before[t].end();
    REQUIRE(std::find(after[t].begin(), after[t].end(), 2) == after[t].end());
    REQUIRE(weights[t][0] + weights[t][1] == Approx(1));
    if (!hit) REQUIRE((after[t] == before[t] && weights[t] == plain.weights()[t]));
    // brute force: the best two of the others
    double const second = [&] {
      Row rest = logits[t];
      rest.erase(rest.begin() + 2);
      std::sort(rest.rbegin(), rest.rend());
      return rest[1];
    }();
    REQUIRE(logits[t][std::size_t(after[t][1])] == second);
    rerouted += hit ? 1 : 0;
    executed += hit ? 1 : 2;
  }
  auto const status = failed.status();
  REQUIRE((rerouted > 0 && status.rerouted == rerouted && status.escalated == 0));
  REQUIRE(executed + status.rerouted == 2 * offset_t(logits.size()));
}

TEST_CASE("without healthy experts every token is escalated, and counted") {
  auto const logits = some_logits(40, 3);
  Healing dead(logits, 2, {1, 1, 1});
  REQUIRE(dead.status().escalated == 40);
  REQUIRE(dead.status().rerouted == 0);
  for (auto const& token : dead.chosen()) REQUIRE(token.empty());
  Healing single(logits, 2, {1, 0, 1}); // one expert for two places: no token is left alone
  REQUIRE(single.status().escalated == 0);
  for (auto const& token : single.chosen()) REQUIRE(token == std::vector<int>{1});
  REQUIRE(single.loads() == std::vector<offset_t>{0, 40, 0});

  Healing masked(logits, 1, {0, 0, 0});
  auto const state = masked.state_of(masked.policy);
  masked.exec.fence();
  to_device(std::vector<index_t>{1, 1, 1}, state.failed);
  std::vector<index_t> mask(40, 1);
  mask[3] = 0; // padding asks for nobody, so nobody is missing
  masked.set_token_mask(mask);
  masked.select<SoftmaxScore>(masked.policy, state, {});
  REQUIRE(masked.status().escalated == 39);
}

TEST_CASE("self-healing keeps to the masks of others") {
  auto const logits = some_logits(30, 5);
  RoutingFixture<> fixture(logits);
  fixture.set_expert_mask({1, 1, 0, 1, 1});
  SelfHealing<TopK<>> const policy{{.k = 1}};
  auto const state = fixture.state_of(policy);
  fixture.exec.fence();
  to_device(std::vector<index_t>{1, 0, 0, 0, 0}, state.failed);
  fixture.select<SoftmaxScore>(policy, state, {});
  offset_t first = 0;
  for (std::size_t t = 0; t < logits.size(); ++t) {
    REQUIRE((fixture.chosen()[t][0] != 0 && fixture.chosen()[t][0] != 2));
    auto const& z = logits[t];
    first += z[0] > std::max({z[1], z[3], z[4]}) ? 1 : 0; // what the mask leaves would have chosen 0
  }
  REQUIRE((first > 0 && fixture.status().rerouted == first));
}

TEST_CASE("a recorded choice is replayed, whatever the logits are") {
  using Policy = Replay<Top2>;
  auto const logits = some_logits(25, 6);
  Policy const policy{{.second = SecondExpert::random, .seed = 2}}; // one or two experts a token
  OwnedMatrix<index_t, Exec> const record("record", 25, 2);
  inputs_t<Policy, double, Exec> recording, replaying;
  recording.record = record;
  replaying.replay = record;

  RoutingFixture<> first(logits);
  first.select<SoftmaxScore>(policy, first.state_of(policy), recording);
  auto const host = to_host(record);
  REQUIRE(std::count(host.begin(), host.end(), none) > 0);

  Rows other = logits;
  for (auto& row : other)
    for (double& z : row) z = -z;
  RoutingFixture<> second(other);
  second.set_token_mask(std::vector<index_t>(25, 1));
  second.select<SoftmaxScore>(policy, second.state_of(policy), replaying);
  REQUIRE(second.chosen() == first.chosen());
  REQUIRE(second.loads() == first.loads());
  second.weigh(SoftmaxGate{}); // weights are those of the new logits
  auto const out = second.weights();
  for (std::size_t t = 0; t < 25; ++t) {
    double sum = 0;
    for (double const z : other[t]) sum += std::exp(z);
    REQUIRE(out[t][0] == Approx(std::exp(other[t][std::size_t(second.chosen()[t][0])]) / sum));
  }

  auto odd = host;
  odd[0] = 6, odd[5] = -3;
  to_device(odd, record);
  RoutingFixture<> third(logits);
  third.select<SoftmaxScore>(policy, third.state_of(policy), replaying);
  REQUIRE(third.status().invalid_ids == 2);
  replaying.replay = OwnedMatrix<index_t, Exec>("short", 25, 1);
  Sizes sizes;
  sizes.tokens = 25;
  REQUIRE_THROWS_AS((policy.check_inputs<double, Exec>(replaying, sizes)), Error);
}

using Jittered =
    Layer<Router<InputJitter<>, Replay<SelfHealing<TopK<>>>>, SoftmaxGate, NoBalancer, ScaleExperts, double>;

TEST_CASE("input jitter multiplies the router's input, in training, and nothing else") {
  double const epsilon = 0.125;
  Fixture<Jittered> fixture({.tokens = 200, .hidden = 6, .experts = 4},
                            {.router = {.scorer = {.epsilon = 0.125f, .seed = 9}}});
  fixture.forward();
  auto const x = in_double(to_host(fixture.x));
  auto const weight = in_rows(in_double(to_host(fixture.parameters.router.weight)), 4);
  auto const input = [&] { return in_double(to_host(fixture.layer.saved(fixture.tape).scorer.input)); };
  REQUIRE(input() == x); // inference
  fixture.mode = Mode::training;
  fixture.forward();
  auto const jittered = input();
  double mean = 0, least = 2, most = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    double const factor = jittered[i] / x[i];
    REQUIRE((factor > 1 - epsilon - 1e-12 && factor < 1 + epsilon + 1e-12));
    mean += factor / double(x.size()), least = std::min(least, factor), most = std::max(most, factor);
  }
  // four deviations of the mean of 1200 uniform draws; the extremes come within a hundredth of the bounds
  CHECK(std::abs(mean - 1) < 4 * epsilon / std::sqrt(3.0 * double(x.size())));
  CHECK((least < 1 - 0.99 * epsilon && most > 1 + 0.99 * epsilon));
  auto const result = fixture.result();
  for (std::size_t t = 0; t < 200; ++t)
    for (std::size_t e = 0; e < 4; ++e) {
      double z = 0;
      for (std::size_t h = 0; h < 6; ++h) z += weight[e][h] * jittered[6 * t + h];
      REQUIRE(result.logits[t][e] == Approx(z).epsilon(1e-12).margin(1e-14));
    }
  fixture.forward();
  REQUIRE(input() == jittered); // the same step
  fixture.step = 1;
  fixture.forward();
  REQUIRE(input() != jittered);
}

TEST_CASE("decorators of scorer and selector: gradients") {
  Fixture<Jittered> fixture({.tokens = 6, .hidden = 3, .experts = 4},
                            {.router = {.scorer = {.epsilon = 0.25f}, .selector = {.inner = {{.k = 2}}}}});
  fixture.mode = Mode::training;
  to_device(std::vector<index_t>{0, 1, 0, 0}, fixture.state.selector.failed);
  check_gradients(fixture);
  REQUIRE(fixture.layer.status(fixture.exec, fixture.tape).rerouted > 0);
}

} // namespace decorators_test
