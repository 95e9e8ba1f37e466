// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/models/adaptive_routing.hpp>

/// Published routers as whole layers, with experts that are cheap.

namespace published_test {

using namespace kokomo;
using namespace kokomo::test;

TEST_CASE("noisy top-k in training: importance and load losses through noise and deviation") {
  using Layer = models::NoisyTopK<double, Exec, ScaleExperts>;
  Layer::Policies policies;
  policies.router.selector.k = 2;
  Fixture<Layer> fixture({.tokens = 6, .hidden = 4, .experts = 5}, policies, 2);
  fixture.mode = Mode::training;
  fixture.step = 5;
  check_gradients(fixture);
  REQUIRE(fixture.result().loss > 0);
}

TEST_CASE("top-p with balance and entropy losses: gradients") {
  using Layer = models::TopPRouting<double, Exec, ScaleExperts>;
  Layer::Policies policies;
  policies.router.selector = {.p = 0.5f, .at_most = 3};
  Fixture<Layer> fixture({.tokens = 6, .hidden = 4, .experts = 5}, policies, 3);
  check_gradients(fixture);
}

TEST_CASE("union of experts: a sequence shares its experts, and the router learns nothing") {
  using Layer = models::UnionOfExperts<double, Exec, ScaleExperts>;
  Layer::Policies policies;
  policies.router.scorer = {.tokens_per_sequence = 4, .pooling = Pooling::flatten};
  policies.router.selector.k = 2;
  Fixture<Layer> fixture({.tokens = 8, .hidden = 3, .experts = 4}, policies, 4);
  fixture.forward();
  auto const out = fixture.result();
  for (std::size_t t = 0; t < 8; ++t) REQUIRE(out.choice[t] == out.choice[t / 4 * 4]);
  REQUIRE(!Layer::causal);
  fixture.backward();
  REQUIRE(norm(in_double(to_host(fixture.gradients.router.weight))) == 0);
}

} // namespace published_test
