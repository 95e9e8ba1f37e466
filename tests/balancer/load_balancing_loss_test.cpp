// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/balancer/load_balancing_loss.hpp>

namespace load_balancing_loss_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T>
using Subject = Layer<Router<LinearScorer, TopK<>>, NormalizedSigmoidGate, LoadBalancingLoss, SwiGluExperts, T, Exec>;

template <class T> typename Subject<T>::Policies settings(LoadBalancingLoss const& loss) {
  return {.router = {.selector = {.k = 2}}, .balancer = loss, .experts = {.intermediate = 2}};
}

/// The loss alone, of tokens with these logits: x is the identity, the router's weight their transpose.
double loss_of(std::vector<std::vector<double>> const& logits, LoadBalancingLoss const& loss,
               std::vector<index_t> const& mask = {}) {
  std::size_t const tokens = logits.size(), experts = logits[0].size();
  Fixture<Subject<double>> fixture(
      {.tokens = offset_t(tokens), .hidden = offset_t(tokens), .experts = offset_t(experts)}, settings<double>(loss));
  std::vector<double> x(tokens * tokens, 0.0), weight(experts * tokens);
  for (std::size_t t = 0; t < tokens; ++t) {
    x[t * tokens + t] = 1;
    for (std::size_t e = 0; e < experts; ++e) weight[e * tokens + t] = logits[t][e];
  }
  to_device(x, fixture.x);
  to_device(weight, fixture.parameters.router.weight);
  if (!mask.empty()) fixture.set_mask(mask);
  fixture.forward();
  return fixture.result().loss;
}

LoadBalancingLoss unit(int top_k, bool divide_by_k = false, offset_t tokens_per_sequence = 0) {
  return {.coefficient = 1, .top_k = top_k, .divide_by_k = divide_by_k, .tokens_per_sequence = tokens_per_sequence};
}

/// Token t prefers expert t % experts, by this much.
std::vector<std::vector<double>> balanced(std::size_t tokens, std::size_t experts, double by) {
  std::vector<std::vector<double>> logits(tokens, std::vector<double>(experts, 0.0));
  for (std::size_t t = 0; t < tokens; ++t) logits[t][t % experts] = by;
  return logits;
}

double const big = 60; // softmax is 1 to the last bit of a double

TEST_CASE("at perfect balance the loss is k, or 1 divided by k, with one expert as many picks") {
  REQUIRE(loss_of(balanced(8, 4, 1.5), unit(1)) == Approx(1).epsilon(1e-14));
  REQUIRE(loss_of(balanced(8, 4, 0), unit(2)) == Approx(2).epsilon(1e-14));
  REQUIRE(loss_of(balanced(8, 4, 0), unit(2, true)) == Approx(1).epsilon(1e-14));
  REQUIRE(loss_of(balanced(8, 4, 0), unit(4)) == Approx(4).epsilon(1e-14));
  REQUIRE(loss_of(balanced(8, 4, 1.5), {.coefficient = 0.25f, .top_k = 1}) == Approx(0.25).epsilon(1e-14));
}

TEST_CASE("at collapse the loss is E") {
  std::vector<std::vector<double>> const collapsed(6, {0, 0, big, 0});
  REQUIRE(loss_of(collapsed, unit(1)) == Approx(4).epsilon(1e-14));
}

TEST_CASE("two sequences collapsed on different experts: per sequence E, over the batch half of it") {
  std::vector<std::vector<double>> const logits{{big, 0}, {big, 0}, {0, big}, {0, big}};
  REQUIRE(loss_of(logits, unit(1, false, 2)) == Approx(2).epsilon(1e-14));
  REQUIRE(loss_of(logits, unit(1)) == Approx(1).epsilon(1e-14));
}

TEST_CASE("masked tokens leave every sum") {
  auto logits = balanced(4, 4, 1.5);
  auto const without = loss_of(logits, unit(1));
  logits.push_back({9, 0, 0, 0});
  logits.insert(logits.begin(), {0, 9, 0, 0});
  REQUIRE(loss_of(logits, unit(1), {0, 1, 1, 1, 1, 0}) == Approx(without).epsilon(1e-14));
  REQUIRE(loss_of(logits, unit(1)) > 1.05 * without);
  REQUIRE(loss_of(logits, unit(1), std::vector<index_t>(6, 0)) == 0);
}

TEST_CASE("the loss equals the reference, whatever the gate's score") {
  for (auto const& loss : {unit(1), unit(2), unit(3, true), unit(2, true, 5), unit(1, false, 7)}) {
    std::vector<Shape> const shapes{{.tokens = 1, .hidden = 3, .experts = 3},
                                    {.tokens = 23, .hidden = 4, .experts = 6}};
    check_shapes<Subject<double>>(shapes, [&](Shape const&) { return settings<double>(loss); });
    check_shapes<Subject<float>>(shapes, [&](Shape const&) { return settings<float>(loss); });
  }
}

TEST_CASE("the loss's gradient equals central differences, by batch and by sequence, with a mask") {
  for (auto const& loss : {unit(2), unit(3, true, 4)}) {
    Fixture<Subject<double>> fixture({.tokens = 9, .hidden = 3, .experts = 4}, settings<double>(loss));
    check_gradients(fixture);
    fixture.set_mask({1, 0, 1, 1, 1, 1, 1, 1, 0});
    check_forward(fixture);
    check_gradients(fixture);
  }
}

TEST_CASE("the loss alone sends gradients: with dy = 0 the router still learns") {
  Fixture<Subject<double>> fixture({.tokens = 9, .hidden = 3, .experts = 4}, settings<double>(unit(2)));
  to_device(std::vector<double>(27, 0.0), fixture.dy);
  check_gradients(fixture);
  fixture.forward();
  fixture.backward();
  REQUIRE(norm(to_host(fixture.gradients.router.weight)) > 1e-3);
  REQUIRE(norm(to_host(fixture.gradients.experts.down)) == 0);
}

} // namespace load_balancing_loss_test
