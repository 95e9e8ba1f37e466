// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/router/top_k.hpp>

namespace top_k_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T, class Selector = TopK<>>
using Subject = Layer<Router<LinearScorer, Selector>, SoftmaxGate, NoBalancer, SwiGluExperts, T, Exec>;
/// Logits rank differently from scores once a bias is added to them.
template <class T>
using LogitRanked =
    Layer<Router<LinearScorer, TopK<dynamic, RankByLogits>>, SigmoidGate, SelectionBias, SwiGluExperts, T, Exec>;

template <class Layer> typename Layer::Policies with_k(int k) {
  typename Layer::Policies policies;
  policies.router.selector.k = k;
  policies.experts.intermediate = 5;
  return policies;
}

TEST_CASE("top-k of float64 and float32 layers equals the reference") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 6, .experts = 4},
                                  {.tokens = 9, .hidden = 1, .experts = 3},
                                  {.tokens = 130, .hidden = 7, .experts = 11}};
  for (int const k : {1, 2, 3}) {
    check_shapes<Subject<double>>(shapes, [&](Shape const&) { return with_k<Subject<double>>(k); });
    check_shapes<Subject<float>>(shapes, [&](Shape const&) { return with_k<Subject<float>>(k); });
  }
}

TEST_CASE("top-k chooses the only expert, and all experts") {
  check_shapes<Subject<double>>({{.tokens = 5, .hidden = 3, .experts = 1}, {.tokens = 5, .hidden = 3, .experts = 6}},
                                [](Shape const& s) { return with_k<Subject<double>>(int(s.experts)); });
}

TEST_CASE("top-k by logits with a bias ranks the biased logits") {
  check_shapes<LogitRanked<double>>({{.tokens = 40, .hidden = 6, .experts = 8}},
                                    [](Shape const&) { return with_k<LogitRanked<double>>(3); });
}

TEST_CASE("a static k does what the same k at run time does") {
  Shape const shape{.tokens = 20, .hidden = 6, .experts = 8};
  Fixture<Subject<double>> dynamic_k(shape, with_k<Subject<double>>(3));
  Fixture<Subject<double, TopK<3>>> static_k(shape, with_k<Subject<double, TopK<3>>>(0)); // 0 must be ignored
  dynamic_k.forward(), static_k.forward();
  REQUIRE(static_k.result().choice == dynamic_k.result().choice);
  REQUIRE(static_k.result().y == dynamic_k.result().y);
}

TEST_CASE("ties in top-k go to the smaller expert") {
  Fixture<Subject<double>> fixture({.tokens = 2, .hidden = 2, .experts = 5}, with_k<Subject<double>>(3));
  // logits of token 0: 0 1 1 0 1; of token 1: all 0
  to_device(std::vector<double>{0, 0, 1, 0, 1, 0, 0, 0, 1, 0}, fixture.parameters.router.weight);
  to_device(std::vector<double>{1, 0, 0, 1}, fixture.x);
  fixture.forward();
  REQUIRE(fixture.result().choice == std::vector<std::vector<int>>{{1, 2, 4}, {0, 1, 2}});
}

TEST_CASE("top-k routes masked tokens nowhere") {
  Fixture<Subject<double>> fixture({.tokens = 6, .hidden = 3, .experts = 4}, with_k<Subject<double>>(2));
  fixture.set_mask({1, 0, 1, 1, 0, 1});
  check_forward(fixture);
  auto const out = fixture.result();
  REQUIRE(out.choice[1] == std::vector<int>{-1, -1});
  REQUIRE(out.y[1] == std::vector<double>(3, 0.0));
  REQUIRE(out.tokens_without_expert == 2);
  check_gradients(fixture);
}

TEST_CASE("top-k: gradients equal central differences") {
  Fixture<Subject<double>> fixture({.tokens = 6, .hidden = 4, .experts = 4}, with_k<Subject<double>>(2));
  check_gradients(fixture);
}

} // namespace top_k_test
