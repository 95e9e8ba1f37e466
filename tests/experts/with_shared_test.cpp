// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/experts/with_shared.hpp>

namespace with_shared_test {

using namespace kokomo;
using namespace kokomo::test;

template <class Experts, class T>
using Subject = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, Experts, T, Exec>;
template <class T> using UngatedShare = Subject<WithShared<SwiGluExperts>, T>;
template <class T> using GatedShare = Subject<WithShared<SwiGluExperts, SigmoidShare>, T>;
/// Shared experts of another kind than the routed ones.
using Mixed = Subject<WithShared<ClampedSwiGluExperts, Ungated, SquaredReluExperts>, double>;

template <class Layer> typename Layer::Policies settings(index_t count = 1) {
  typename Layer::Policies policies;
  policies.experts.routed.intermediate = 3;
  policies.experts.shared.intermediate = 4;
  policies.experts.shared.bias = true;
  policies.experts.count = count;
  return policies;
}

TEST_CASE("ungated shared experts equal the reference, one and more") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 1, .experts = 2}, {.tokens = 21, .hidden = 6, .experts = 4}};
  for (index_t const count : {1, 3}) {
    check_shapes<UngatedShare<double>>(shapes, [&](Shape const&) { return settings<UngatedShare<double>>(count); });
    check_shapes<UngatedShare<float>>(shapes, [&](Shape const&) { return settings<UngatedShare<float>>(count); });
    Fixture<UngatedShare<double>> fixture({.tokens = 5, .hidden = 3, .experts = 3},
                                          settings<UngatedShare<double>>(count));
    check_gradients(fixture);
  }
}

TEST_CASE("a shared expert behind a sigmoid gate equals the reference") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 1, .experts = 2}, {.tokens = 21, .hidden = 6, .experts = 4}};
  check_shapes<GatedShare<double>>(shapes, [](Shape const&) { return settings<GatedShare<double>>(); });
  Fixture<GatedShare<double>> fixture({.tokens = 5, .hidden = 3, .experts = 3}, settings<GatedShare<double>>());
  check_gradients(fixture);
}

TEST_CASE("shared experts of another kind and size than the routed ones") {
  Fixture<Mixed> fixture({.tokens = 7, .hidden = 4, .experts = 3}, settings<Mixed>(2));
  check_forward(fixture);
  check_gradients(fixture);
}

TEST_CASE("shared experts compute masked tokens too") {
  Fixture<UngatedShare<double>> fixture({.tokens = 4, .hidden = 3, .experts = 3}, settings<UngatedShare<double>>());
  fixture.set_mask({1, 0, 0, 1});
  check_forward(fixture);
  REQUIRE(fixture.result().tokens_without_expert == 2);
  REQUIRE(norm(fixture.result().y[1]) > 0);
  check_gradients(fixture);
}

} // namespace with_shared_test
