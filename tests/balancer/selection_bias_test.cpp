// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/capacity/capacity.hpp>

namespace selection_bias_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T, class... Slots>
using Subject =
    Layer<Router<LinearScorer, TopK<>>, NormalizedSigmoidGate, SelectionBias, SwiGluExperts, T, Exec, Slots...>;

template <class Layer> typename Layer::Policies settings(SelectionBias const& bias, int k = 2) {
  typename Layer::Policies policies;
  policies.router.selector.k = k;
  policies.balancer = bias;
  policies.experts.intermediate = 2;
  return policies;
}

/// Top-1 counts {3, 1, 0}: x one-hot in the expert that it wants.
template <class Layer> void prefer_first(Fixture<Layer>& fixture) {
  to_device(std::vector<double>{1, 0, 0, 0, 1, 0, 0, 0, 1}, fixture.parameters.router.weight);
  to_device(std::vector<double>{1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0}, fixture.x);
  to_device(std::vector<double>(3, 0.0), fixture.state.balancer.bias);
}

TEST_CASE("the bias changes who is chosen and never a weight of the chosen") {
  using Double = Subject<double>;
  check_shapes<Double>({{.tokens = 1, .hidden = 2, .experts = 2}, {.tokens = 40, .hidden = 5, .experts = 7}},
                       [](Shape const&) { return settings<Double>({}); });
  Fixture<Double> fixture({.tokens = 40, .hidden = 5, .experts = 7}, settings<Double>({}));
  fixture.forward();
  auto const biased = fixture.result();
  to_device(std::vector<double>(7, 0.0), fixture.state.balancer.bias);
  fixture.forward();
  auto const plain = fixture.result();
  REQUIRE(biased.choice != plain.choice);
  for (std::size_t t = 0; t < 40; ++t)
    if (biased.choice[t] == plain.choice[t]) REQUIRE(biased.weights[t] == plain.weights[t]);
}

TEST_CASE("gradients of a biased selection equal central differences") {
  using Double = Subject<double>;
  Fixture<Double> fixture({.tokens = 6, .hidden = 3, .experts = 4}, settings<Double>({}));
  check_gradients(fixture);
}

TEST_CASE("the sign rule, by hand") {
  Fixture<Subject<double>> fixture({.tokens = 4, .hidden = 3, .experts = 3},
                                   settings<Subject<double>>({.rate = 0.125f}, 1));
  prefer_first(fixture);
  fixture.mode = Mode::training;
  fixture.forward();
  REQUIRE(to_host(fixture.state.balancer.counts) == std::vector<offset_t>{3, 1, 0});
  fixture.layer.step(fixture.exec, fixture.state);
  fixture.exec.fence();
  // mean 4/3: above, below, below. The sum drifts.
  REQUIRE(to_host(fixture.state.balancer.bias) == std::vector<double>{-0.125, 0.125, 0.125});
  REQUIRE(to_host(fixture.state.balancer.counts) == std::vector<offset_t>{0, 0, 0});
}

TEST_CASE("the sign rule leaves an expert with the mean load alone") {
  Fixture<Subject<double>> fixture({.tokens = 3, .hidden = 3, .experts = 3},
                                   settings<Subject<double>>({.rate = 0.125f}, 1));
  to_device(std::vector<double>{1, 0, 0, 0, 1, 0, 0, 0, 1}, fixture.parameters.router.weight);
  to_device(std::vector<double>{1, 0, 0, 1, 0, 0, 0, 1, 0}, fixture.x);
  to_device(std::vector<double>(3, 0.0), fixture.state.balancer.bias);
  fixture.mode = Mode::training;
  fixture.forward();
  fixture.layer.step(fixture.exec, fixture.state);
  fixture.exec.fence();
  REQUIRE(to_host(fixture.state.balancer.bias) == std::vector<double>{-0.125, 0, 0.125});
}

TEST_CASE("the proportional rule, by hand, conserves the sum") {
  Fixture<Subject<double>> fixture({.tokens = 4, .hidden = 3, .experts = 3},
                                   settings<Subject<double>>({.rate = 0.5f, .update = BiasUpdate::proportional}, 1));
  prefer_first(fixture);
  fixture.mode = Mode::training;
  fixture.forward();
  fixture.layer.step(fixture.exec, fixture.state);
  fixture.exec.fence();
  // (mean - c) / mean with mean 4/3: -5/4, 1/4, 1
  REQUIRE(distance(to_host(fixture.state.balancer.bias), {-0.625, 0.125, 0.5}) <= 1e-15);

  Fixture<Subject<double>> longer({.tokens = 50, .hidden = 4, .experts = 7},
                                  settings<Subject<double>>({.rate = 0.5f, .update = BiasUpdate::proportional}));
  longer.mode = Mode::training;
  auto const sum = [&] {
    double total = 0;
    for (double const b : to_host(longer.state.balancer.bias)) total += b;
    return total;
  };
  double const before = sum();
  for (int n = 0; n < 20; ++n) {
    longer.forward();
    longer.layer.step(longer.exec, longer.state);
  }
  longer.exec.fence();
  REQUIRE(sum() == Approx(before).margin(1e-13)); // 20 steps of 7 additions of numbers below 1
}

TEST_CASE("counts add up over forward passes, of training only, without masked tokens, a rate of zero freezes") {
  Fixture<Subject<double>> fixture({.tokens = 4, .hidden = 3, .experts = 3}, settings<Subject<double>>({.rate = 0}, 1));
  prefer_first(fixture);
  fixture.forward();
  REQUIRE(to_host(fixture.state.balancer.counts) == std::vector<offset_t>{0, 0, 0});
  fixture.mode = Mode::training;
  fixture.forward();
  fixture.set_mask({0, 1, 1, 1});
  fixture.forward();
  REQUIRE(to_host(fixture.state.balancer.counts) == std::vector<offset_t>{5, 2, 0});
  fixture.layer.step(fixture.exec, fixture.state);
  fixture.exec.fence();
  REQUIRE(to_host(fixture.state.balancer.bias) == std::vector<double>{0, 0, 0});
}

TEST_CASE("a step without any token changes nothing") {
  for (auto const update : {BiasUpdate::sign, BiasUpdate::proportional}) {
    Fixture<Subject<double>> fixture({.tokens = 4, .hidden = 3, .experts = 3},
                                     settings<Subject<double>>({.rate = 0.5f, .update = update}, 1));
    auto const before = to_host(fixture.state.balancer.bias);
    fixture.layer.step(fixture.exec, fixture.state);
    fixture.exec.fence();
    REQUIRE(to_host(fixture.state.balancer.bias) == before);
  }
}

TEST_CASE("counts are those before capacity drops") {
  auto policies = settings<Subject<double, Capacity>>({.rate = 0.125f}, 1);
  policies.capacity.places = 1;
  Fixture<Subject<double, Capacity>> fixture({.tokens = 4, .hidden = 3, .experts = 3}, policies);
  prefer_first(fixture);
  fixture.mode = Mode::training;
  fixture.forward();
  REQUIRE(fixture.result().dropped == 2);
  REQUIRE(to_host(fixture.state.balancer.counts) == std::vector<offset_t>{3, 1, 0});
}

TEST_CASE("biases even out a load that scores alone would not") {
  using Double = Subject<double>;
  Fixture<Double> fixture({.tokens = 400, .hidden = 8, .experts = 8}, settings<Double>({.rate = 0.002f}));
  auto weight = to_host(fixture.parameters.router.weight);
  auto x = to_host(fixture.x);
  for (std::size_t t = 0; t < 400; ++t) x[t * 8] = 1;
  for (std::size_t e = 0; e < 8; ++e) weight[e * 8] = 0.4 * double(e); // later experts score higher
  to_device(weight, fixture.parameters.router.weight), to_device(x, fixture.x);
  to_device(std::vector<double>(8, 0.0), fixture.state.balancer.bias);
  fixture.mode = Mode::training;
  auto const violation = [&] { // largest load over the mean, less one
    auto const counts = to_host(fixture.state.balancer.counts);
    return double(*std::max_element(counts.begin(), counts.end())) / 100 - 1;
  };
  fixture.forward();
  double const at_first = violation();
  for (int n = 0; n < 150; ++n) {
    fixture.layer.step(fixture.exec, fixture.state);
    fixture.forward();
  }
  REQUIRE(at_first > 1);
  REQUIRE(violation() < 0.15); // the sign rule ends in a cycle of a few tokens, as wide as its rate
}

} // namespace selection_bias_test
