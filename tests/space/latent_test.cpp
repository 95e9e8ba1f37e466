// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/space/latent.hpp>
#include <kokomo/space/same_space.hpp>

namespace latent_test {

using namespace kokomo;
using namespace kokomo::test;

/// Shared experts and router see the layer's input, routed experts the latent space.
template <class T>
using Subject =
    Layer<Router<LinearScorer, TopK<>>, NormalizedSigmoidGate, NoBalancer, WithShared<SwiGluExperts>, T, Exec, Latent>;

template <class T> typename Subject<T>::Policies settings(Latent const& space) {
  return {.router = {.selector = {.k = 2}},
          .experts = {.routed = {.intermediate = 3, .bias = true}, .shared = {.intermediate = 2}},
          .space = space};
}

std::vector<Latent> const variants{{.size = 2},
                                   {.size = 7}, // wider than the layer
                                   {.size = 3, .norm = true, .epsilon = 0.1f, .norm_offset = 1},
                                   {.size = 1, .norm = true, .epsilon = 0.1f}};

TEST_CASE("latent experts equal the reference, with and without a norm, narrower and wider than the layer") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 1, .experts = 2}, {.tokens = 21, .hidden = 6, .experts = 4}};
  for (auto const& space : variants) {
    check_shapes<Subject<double>>(shapes, [&](Shape const&) { return settings<double>(space); });
    check_shapes<Subject<float>>(shapes, [&](Shape const&) { return settings<float>(space); });
  }
}

TEST_CASE("latent experts: gradients equal central differences") {
  for (auto const& space : variants) {
    Fixture<Subject<double>> fixture({.tokens = 5, .hidden = 4, .experts = 3}, settings<double>(space));
    fixture.set_mask({1, 1, 0, 1, 1});
    check_gradients(fixture);
  }
}

TEST_CASE("latent experts have the latent width, shared experts the layer's") {
  Subject<double> const layer({.tokens = 1, .hidden = 6, .experts = 4}, settings<double>({.size = 2}));
  auto const parameters = layer.describe_parameters();
  REQUIRE(parameters.experts.down.extent(1) == 2);
  REQUIRE(parameters.shared.experts.down.extent(1) == 6);
  REQUIRE(parameters.router.weight.extent(1) == 6);
}

TEST_CASE("the same space named or not is the same layer") {
  using Named = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, double, Exec, SameSpace>;
  Fixture<Named> fixture({.tokens = 4, .hidden = 3, .experts = 3}, {.experts = {.intermediate = 2}});
  check_forward(fixture);
  REQUIRE_FALSE(Named::has_space);
}

} // namespace latent_test
