// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/balancer/z_loss.hpp>

namespace z_loss_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T> using Subject = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, ZLoss, SwiGluExperts, T, Exec>;

template <class T> typename Subject<T>::Policies settings(float coefficient) {
  return {.router = {.scorer = {.bias = true}, .selector = {.k = 2}},
          .balancer = {.coefficient = coefficient},
          .experts = {.intermediate = 2}};
}

TEST_CASE("the z-loss is (ln E)^2 for logits of zero, and zero where logsumexp is") {
  Fixture<Subject<double>> fixture({.tokens = 5, .hidden = 2, .experts = 6}, settings<double>(0.5f));
  to_device(std::vector<double>(12, 0.0), fixture.parameters.router.weight);
  to_device(std::vector<double>(6, 0.0), fixture.parameters.router.bias);
  fixture.forward();
  REQUIRE(fixture.result().loss == Approx(0.5 * std::log(6.0) * std::log(6.0)).epsilon(1e-14));
  to_device(std::vector<double>(6, -std::log(6.0)), fixture.parameters.router.bias);
  fixture.forward();
  REQUIRE(std::abs(fixture.result().loss) <= 1e-30); // the square of one rounding of ln 6
}

TEST_CASE("the z-loss equals the reference") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 2, .experts = 2}, {.tokens = 23, .hidden = 4, .experts = 6}};
  check_shapes<Subject<double>>(shapes, [](Shape const&) { return settings<double>(1); });
  check_shapes<Subject<float>>(shapes, [](Shape const&) { return settings<float>(1e-3f); });
}

TEST_CASE("the z-loss's gradient is 2 logsumexp(z) softmax(z) / tokens, and equals central differences") {
  Fixture<Subject<double>> fixture({.tokens = 6, .hidden = 3, .experts = 4}, settings<double>(0.5f));
  std::vector<index_t> const mask{1, 1, 0, 1, 1, 0};
  fixture.set_mask(mask);
  check_forward(fixture);
  check_gradients(fixture);

  to_device(std::vector<double>(18, 0.0), fixture.dy); // the loss alone
  fixture.forward();
  fixture.backward();
  reference::Row d_bias(4, 0.0);
  auto const logits = fixture.result().logits;
  for (std::size_t t = 0; t < 6; ++t) {
    double sum = 0;
    for (double const z : logits[t]) sum += std::exp(z);
    for (int e = 0; e < 4 && mask[t] == 1; ++e)
      d_bias[e] += 0.5 * 2 * std::log(sum) * std::exp(logits[t][e]) / sum / 4; // four tokens count
  }
  REQUIRE(relative_error(to_host(fixture.gradients.router.bias), d_bias) <= tolerance<double>());
}

TEST_CASE("the z-loss of masked tokens alone is zero, and so is its gradient") {
  Fixture<Subject<double>> fixture({.tokens = 3, .hidden = 3, .experts = 4}, settings<double>(1));
  fixture.set_mask({0, 0, 0});
  fixture.forward();
  fixture.backward();
  REQUIRE(fixture.result().loss == 0);
  REQUIRE(norm(to_host(fixture.gradients.router.weight)) == 0);
}

} // namespace z_loss_test
