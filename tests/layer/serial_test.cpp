// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/group_limited_top_k.hpp>

// Where Kokkos has a Serial backend beside the default one, a layer runs there too.
#if defined(KOKKOS_ENABLE_SERIAL)

namespace {

using namespace kokomo;
using namespace kokomo::test;

template <class Space>
using Grouped = Layer<Router<LinearScorer, GroupLimitedTopK<>>, NormalizedSigmoidGate, SelectionBias,
                      WithShared<SwiGluExperts>, double, Space>;

template <class L> typename L::Policies grouped() {
  typename L::Policies policies;
  policies.router.selector = {.k = 2, .groups = 3, .allowed_groups = 2};
  policies.experts.routed.intermediate = policies.experts.shared.intermediate = 3;
  return policies;
}

} // namespace

TEST_CASE("a layer on Kokkos::Serial agrees with the reference, forward and backward") {
  using Serial = Grouped<Kokkos::Serial>;
  Fixture<Serial> fixture({.tokens = 5, .hidden = 4, .experts = 6}, grouped<Serial>(), 7);
  check_forward(fixture);
  check_gradients(fixture);
}

#endif
