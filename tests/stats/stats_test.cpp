// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>

#include <kokomo/gate/score_gate.hpp>
#include <kokomo/router/top_k.hpp>
#include <kokomo/stats/choices.hpp>
#include <kokomo/stats/history.hpp>

namespace {

using namespace kokomo;
using namespace kokomo::test;
using Catch::Matchers::ContainsSubstring;

stats::Loads loads_of(std::vector<offset_t> rows, offset_t tokens = 12) {
  stats::Loads loads;
  loads.rows = std::move(rows);
  loads.tokens = tokens;
  return loads;
}

TEST_CASE("loads: MaxVio, entropy and dead experts at known places") {
  auto const even = loads_of({6, 6, 6, 6});
  REQUIRE((even.max_violation() == 0 && even.dead() == 0 && even.balanced() == 6 && even.experts_per_token() == 2));
  REQUIRE(even.entropy() == Approx(1));
  auto const one = loads_of({0, 12, 0, 0});
  REQUIRE((one.max_violation() == 3 && one.dead() == 3 && one.entropy() == 0)); // E - 1
  auto const two = loads_of({6, 6, 0, 0});
  REQUIRE((two.max_violation() == 1 && two.dead() == 2));
  REQUIRE(two.entropy() == Approx(0.5)); // log 2 / log 4
  auto const nobody = loads_of({0, 0});
  REQUIRE((nobody.max_violation() == 0 && nobody.entropy() == 0 && nobody.dead() == 2));
  REQUIRE((loads_of({}).max_violation() == 0 && loads_of({3}).entropy() == 1));
  REQUIRE((even.usage() == 1 && one.usage() == 0.25 && nobody.usage() == 0 && loads_of({}).usage() == 0));
  // sum of z log(E z): 0, log E, log 2, and a loop's
  REQUIRE(even.unevenness() == Approx(0).margin(1e-15));
  REQUIRE(one.unevenness() == Approx(std::log(4.0)));
  REQUIRE(two.unevenness() == Approx(std::log(2.0)));
  REQUIRE((nobody.unevenness() == 0 && loads_of({3}).unevenness() == 0));
  double expected = 0;
  for (double const z : {1.0 / 12, 3.0 / 12, 8.0 / 12}) expected += z * std::log(3 * z);
  REQUIRE(loads_of({1, 3, 8}).unevenness() == Approx(expected));
  auto dropping = loads_of({3, 3});
  dropping.status.dropped = 2;
  REQUIRE(dropping.dropped_share() == 0.25);
}

/// What stats read of a layer: a fixture in its place.
struct AsLayer {
  using Exec = kokomo::test::Exec;
  RoutingFixture<>& fixture;
  struct Saved {
    Assignment<double, Exec> assignment;
  };
  Saved saved(Tape<Exec> const&) const { return {fixture.assignment}; }
  Status status(Exec const&, Tape<Exec> const&) const { return fixture.status(); }
};

TEST_CASE("loads and choices are what grouping left") {
  RoutingFixture<> fixture({{5, 4, 0}, {5, 0, 4}, {0, 5, 4}, {9, 8, 0}});
  fixture.set_token_mask({1, 1, 1, 0});
  fixture.select<SoftmaxScore>(TopK<>{.k = 2});
  fixture.weigh(SoftmaxGate{});
  Tape<Exec> const tape(nullptr, 0);
  auto const loads = stats::loads(fixture.exec, AsLayer{fixture}, tape);
  REQUIRE(loads.rows == fixture.loads());
  REQUIRE(loads.rows == std::vector<offset_t>{2, 2, 2});
  REQUIRE(loads.tokens == 4);

  auto const choices = stats::choices(fixture.exec, fixture.assignment);
  REQUIRE(choices.of_token[3].empty());
  REQUIRE((choices.of_token[2][0].expert == 1 && choices.of_token[2][1].expert == 2));
  REQUIRE(choices.of_token[0][0].weight == fixture.weights()[0][0]);
  REQUIRE(stats::coactivation(choices) == std::vector<std::vector<offset_t>>{{2, 1, 1}, {1, 2, 1}, {1, 1, 2}});
  auto const frequency = stats::activation_frequency(choices);
  for (double const share : frequency) REQUIRE(share == Approx(2.0 / 3)); // the masked token does not count
  // sequences {0, 1} and {2, 3}: expert 0 in 2 of 2 and 0 of 1, expert 1 in 1 of 2 and 1 of 1, expert 2 likewise
  REQUIRE(stats::activation_frequency(choices, 2) == std::vector<double>{0.5, 0.75, 0.75});
  auto const q = stats::weight_distribution(choices);
  auto const w = fixture.weights();
  double const total = w[0][0] + w[0][1] + w[1][0] + w[1][1] + w[2][0] + w[2][1];
  REQUIRE(q[0] == Approx((w[0][0] + w[1][0]) / total)); // the first choice of tokens 0 and 1
  REQUIRE(q[1] == Approx((w[0][1] + w[2][0]) / total));
  REQUIRE(q[2] == Approx((w[1][1] + w[2][1]) / total));
}

TEST_CASE("uncertainty: of what was chosen, log E where a router does not know, and the layers it names") {
  RoutingFixture<> fixture({{0, 0, 0, 0}, {2, 1, 0, -1}, {9, 9, 9, 9}});
  fixture.set_token_mask({1, 1, 0});
  fixture.select<SoftmaxScore>(TopK<>{.k = 2});
  fixture.weigh(SoftmaxGate{});
  auto const p = [](double z) { return std::exp(z) / (std::exp(2) + std::exp(1) + 1 + std::exp(-1)); };
  double const expected = (std::log(4.0) - (std::log(p(2)) + std::log(p(1))) / 2) / 2; // of two tokens
  Matrix<double, Exec> const logits(fixture.logits);
  REQUIRE(stats::uncertainty(fixture.exec, logits, fixture.assignment) == Approx(expected).epsilon(1e-13));
  fixture.set_token_mask({0, 0, 0});
  fixture.select<SoftmaxScore>(TopK<>{.k = 2});
  REQUIRE(stats::uncertainty(fixture.exec, logits, fixture.assignment) == 0);

  using stats::AdaptedLayers, stats::adapted_layers;
  std::vector<double> const of_layer{0.3, 0.9, 0.1, 0.9, 0.5};
  REQUIRE(adapted_layers(of_layer, 0.4, AdaptedLayers::most_uncertain) == std::vector<std::size_t>{1, 3});
  REQUIRE(adapted_layers(of_layer, 0.1, AdaptedLayers::most_uncertain) == std::vector<std::size_t>{1}); // ties: lower
  REQUIRE(adapted_layers(of_layer, 0.5, AdaptedLayers::least_uncertain) == std::vector<std::size_t>{0, 2, 4});
  REQUIRE(adapted_layers(of_layer, 0, AdaptedLayers::least_uncertain).empty());
  REQUIRE(adapted_layers(of_layer, 2, AdaptedLayers::least_uncertain).size() == 5);
}

TEST_CASE("routing divergence: symmetric, zero for equals, one bit for strangers") {
  using stats::DivergenceNormalizer, stats::jensen_shannon;
  std::vector<double> const p{0.5, 0.25, 0.25, 0}, q{0.125, 0.125, 0.25, 0.5};
  REQUIRE(jensen_shannon(p, p) == 0);
  REQUIRE(jensen_shannon(p, q) == jensen_shannon(q, p));
  REQUIRE(jensen_shannon({1, 0}, {0, 1}) == 1);
  REQUIRE(jensen_shannon({0.5, 0.5, 0, 0}, {0, 0, 0.25, 0.75}) == Approx(1));
  // as the mean of two Kullback-Leibler divergences to the middle: another formula of the same
  double expected = 0;
  for (std::size_t e = 0; e < 4; ++e) {
    double const m = (p[e] + q[e]) / 2;
    for (double const s : {p[e], q[e]}) expected += s > 0 ? s * std::log2(s / m) / 2 : 0;
  }
  REQUIRE(jensen_shannon(p, q) == Approx(expected).epsilon(1e-12));
  // H(p) = 1.5, H(q) = 1.75 bits
  REQUIRE(jensen_shannon(p, q, DivergenceNormalizer::mean_entropy) == Approx(expected / 1.625).epsilon(1e-12));
  REQUIRE(jensen_shannon({1, 0}, {1, 0}, DivergenceNormalizer::mean_entropy) == 0); // 0 / 0
}

TEST_CASE("a history: JSON and pictures") {
  stats::History history({"layer 0 \"first\"", "layer <1>"});
  for (std::uint64_t step = 0; step < 300; ++step)
    for (std::size_t layer = 0; layer < 2; ++layer)
      history.add(step, layer, loads_of({offset_t(layer == 0 ? 12 : 24 - step % 24), 12, 12, offset_t(step % 24)}));
  auto const rows = history.load_rows(1, 100);
  REQUIRE((rows.size() == 4 && rows[0].loads.size() == 100));
  REQUIRE(rows[3].loads[8] == Approx((0 + 1 + 2) / 3.0 / 12)); // steps 24, 25, 26; 48 rows, 12 are balanced
  auto const violations = history.max_violations(1);
  REQUIRE((violations.y[0] == 1 && violations.y[12] == 0));

  auto const json = history.json();
  REQUIRE_THAT(json, ContainsSubstring("\"name\": \"layer 0 \\\"first\\\"\""));
  REQUIRE_THAT(json, ContainsSubstring("{\"step\": 0, \"tokens\": 12, \"max_vio\": 1, \"entropy\": "));
  REQUIRE_THAT(json, ContainsSubstring("\"loads\": [24, 12, 12, 0]"));
  REQUIRE(std::count(json.begin(), json.end(), '{') == std::count(json.begin(), json.end(), '}'));

  auto const loads = history.load_picture("Loads"), balance = history.balance_picture("Balance");
  REQUIRE_THAT(loads, ContainsSubstring("layer &lt;1&gt;") && ContainsSubstring("</svg>"));
  REQUIRE_THAT(balance, ContainsSubstring("MaxVio") && ContainsSubstring("<path"));
  REQUIRE(loads.find("nan") == std::string::npos);
  REQUIRE(balance.find("nan") == std::string::npos);
  stats::History const empty({"nothing yet"});
  REQUIRE_THAT(empty.load_picture("Loads") + empty.balance_picture("Balance"), ContainsSubstring("</svg>"));
  REQUIRE_THAT(empty.json(), ContainsSubstring("\"steps\": ["));
}

} // namespace
