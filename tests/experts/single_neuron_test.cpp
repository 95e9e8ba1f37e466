// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/experts/single_neuron.hpp>
#include <kokomo/models/product_keys.hpp>

namespace single_neuron_test {

using namespace kokomo;
using namespace kokomo::test;

using Neurons = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SingleNeuronExperts<Silu>, double, Exec>;
using Reference =
    Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, FeedForwardExperts<Plain<Silu>>, double, Exec>;

TEST_CASE("experts of one neuron equal plain experts of intermediate size one, gradients included") {
  Shape const shape{.tokens = 13, .hidden = 19, .experts = 7};
  Fixture<Neurons> neurons(shape, {.router = {.selector = {.k = 3}}});
  Fixture<Reference> plain(shape, {.router = {.selector = {.k = 3}}, .experts = {.intermediate = 1}});
  auto const take = [](auto const& from, auto const& to) { to_device(to_host(from), to); };
  take(neurons.parameters.router.weight, plain.parameters.router.weight);
  take(neurons.parameters.experts.up, plain.parameters.experts.up);
  take(neurons.parameters.experts.down, plain.parameters.experts.down);
  take(neurons.x, plain.x), take(neurons.dy, plain.dy);
  neurons.set_mask({1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}), plain.set_mask({1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
  neurons.forward(), plain.forward();
  neurons.backward(), plain.backward();
  auto const same = [](auto const& a, auto const& b) {
    return relative_error(in_double(to_host(a)), in_double(to_host(b))) < 1e-13; // sums of 19 in another order
  };
  CHECK(same(neurons.y, plain.y));
  CHECK(same(neurons.dx, plain.dx));
  CHECK(same(neurons.gradients.router.weight, plain.gradients.router.weight));
  CHECK(same(neurons.gradients.experts.up, plain.gradients.experts.up));
  CHECK(same(neurons.gradients.experts.down, plain.gradients.experts.down));
}

TEST_CASE("one expert, one choice: a one-neuron network") {
  Fixture<Neurons> fixture({.tokens = 3, .hidden = 2, .experts = 1}, {.router = {.selector = {.k = 1}}});
  fixture.forward();
  auto const x = to_host(fixture.x), y = to_host(fixture.y), up = to_host(fixture.parameters.experts.up),
             down = to_host(fixture.parameters.experts.down);
  for (std::size_t t = 0; t < 3; ++t) {
    double const u = x[2 * t] * up[0] + x[2 * t + 1] * up[1], a = u / (1 + std::exp(-u));
    for (std::size_t h = 0; h < 2; ++h) REQUIRE(std::abs(y[2 * t + h] - a * down[h]) < 1e-15);
  }
}

template <class T> typename models::Peer<T, Exec>::Policies peer(int heads, int k, PairWeight weight) {
  return {.router = {.scorer = {.heads = heads, .key_size = 3}, .selector = {.k = k, .heads = heads}},
          .gate = {.weight = weight, .heads = heads},
          .experts = {.act = {.kind = ActivationKind::gelu}}};
}

TEST_CASE("product keys and one-neuron experts: gradients equal differences, with shared choices") {
  for (auto const weight : {PairWeight::selected_softmax, PairWeight::relu}) {
    Fixture<models::Peer<double, Exec>> fixture({.tokens = 4, .hidden = 5, .experts = 9}, peer<double>(2, 3, weight),
                                                3);
    check_gradients(fixture);
    check_grouping(fixture);
  }
}

TEST_CASE("a layer of a million experts") {
  Shape const shape{.tokens = 5, .hidden = 4, .experts = 1 << 20};
  Fixture<models::Peer<double, Exec>> fixture(shape, peer<double>(2, 4, PairWeight::selected_softmax));
  fixture.forward();
  auto const out = fixture.result();
  auto const up = to_host(fixture.parameters.experts.up), down = to_host(fixture.parameters.experts.down);
  auto const x = to_host(fixture.x);
  reference::Row expected(20), d_up_norm;
  for (std::size_t t = 0; t < 5; ++t) {
    REQUIRE(out.choice[t].size() == 8);
    for (std::size_t j = 0; j < 8; ++j) {
      auto const e = std::size_t(out.choice[t][j]);
      double u = 0;
      for (std::size_t h = 0; h < 4; ++h) u += x[t * 4 + h] * up[e * 4 + h];
      double const a = u * 0.5 * (1 + std::erf(u / std::sqrt(2.0))) * out.weights[t][j];
      for (std::size_t h = 0; h < 4; ++h) expected[t * 4 + h] += a * down[e * 4 + h];
    }
  }
  REQUIRE(relative_error(flat(out.y), expected) < 1e-14);
  check_grouping(fixture);
  fixture.backward(); // an expert that nobody chose has a gradient of zero
  auto const gradient = to_host(fixture.gradients.experts.down);
  std::size_t touched = 0;
  for (std::size_t e = 0; e < (1u << 20); ++e) touched += gradient[4 * e] != 0 ? 1 : 0;
  REQUIRE(touched > 0);
  REQUIRE(touched <= 40);
}

} // namespace single_neuron_test
