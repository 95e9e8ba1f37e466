// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/router.hpp>
#include <kokomo/router/linear_scorer.hpp>

namespace linear_scorer_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T> using Subject = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, T, Exec>;

template <class T> typename Subject<T>::Policies settings(LinearScorer const& scorer) {
  return {.router = {.scorer = scorer, .selector = {.k = 2}}, .experts = {.intermediate = 3}};
}

std::vector<LinearScorer> const variants{{},
                                         {.bias = true},
                                         {.multiplier = 1.75f},
                                         {.softcap = 1.5f},
                                         {.bias = true, .multiplier = -0.5f, .softcap = 0.75f}};

TEST_CASE("linear scorer equals the reference with bias, multiplier and soft cap") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 1, .experts = 2}, {.tokens = 33, .hidden = 9, .experts = 5}};
  for (auto const& scorer : variants) {
    check_shapes<Subject<double>>(shapes, [&](Shape const&) { return settings<double>(scorer); });
    check_shapes<Subject<float>>(shapes, [&](Shape const&) { return settings<float>(scorer); });
  }
}

TEST_CASE("linear scorer: gradients equal central differences") {
  for (auto const& scorer : variants) {
    Fixture<Subject<double>> fixture({.tokens = 5, .hidden = 4, .experts = 4}, settings<double>(scorer));
    check_gradients(fixture);
  }
}

TEST_CASE("linear scorer reads another tensor of another width") {
  Shape const shape{.tokens = 6, .hidden = 3, .experts = 4, .router_hidden = 5};
  Fixture<Subject<double>> fixture(shape, settings<double>({.bias = true}));
  REQUIRE(fixture.parameters.router.weight.extent(1) == 5);
  check_forward(fixture);
  check_gradients(fixture);
}

TEST_CASE("round_logits rounds the product to the storage type, before the multiplier") {
  Shape const shape{.tokens = 20, .hidden = 6, .experts = 4};
  Fixture<Subject<bfloat16>> plain(shape, settings<bfloat16>({}));
  Fixture<Subject<bfloat16>> rounded(shape, settings<bfloat16>({.multiplier = 3, .round_logits = true}));
  plain.forward(), rounded.forward();
  auto const exact = to_host(plain.layer.saved(plain.tape).logits);
  auto const out = to_host(rounded.layer.saved(rounded.tape).logits);
  bool differs = false;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    REQUIRE(out[i] == 3.0f * float(bfloat16(exact[i])));
    differs = differs || out[i] != 3.0f * exact[i];
  }
  REQUIRE(differs);
}

} // namespace linear_scorer_test
