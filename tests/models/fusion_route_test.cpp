// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "preset.hpp"

#include <support/finite_differences.hpp>

#include <kokomo/models/fusion_route.hpp>

#include <limits>

namespace fusion_route_test {

using namespace kokomo;
using namespace kokomo::test;

using Route = models::FusionRoute<double, Exec, ScaleExperts>;
using Head = models::FusionHead<double, Exec>;
/// Two given outputs, weighted, beside the input.
using Beside = Layer<Router<LinearScorer, TopK<2>>, SoftmaxGate, NoBalancer,
                     WithShared<GivenOutputs<double, Exec>, Ungated, PassThrough>, double, Exec>;

Row log_softmax(Row z) {
  double sum = 0;
  for (double const v : z) sum += std::exp(v);
  for (double& v : z) v -= std::log(sum);
  return z;
}

TEST_CASE("FusionRoute in a layer: one expert and the router's complement, gradients equal differences") {
  Route::Policies policies;
  policies.router.scorer.bias = true;
  Fixture<Route> f({.tokens = 9, .hidden = 3, .experts = 4, .router_hidden = 5}, policies, 3);
  f.set_mask({1, 1, 1, 1, 0, 1, 1, 1, 1});
  f.forward();
  auto const out = f.result();
  auto const x = matrix_of(f.x), h = matrix_of(f.router_input), scale = matrix_of(f.parameters.experts.scale);
  auto const& router = f.parameters.router;
  auto const z = products(h, matrix_of(router.inner.weight));
  auto y = products(h, matrix_of(router.complement));
  Rows alone(9, Row(3, 0.0));
  for (std::size_t t = 0; t < 9; ++t) {
    auto const chosen = best(z[t], 1)[0];
    if (t != 4) REQUIRE(out.choice[t] == std::vector<int>{int(chosen)});
    for (std::size_t i = 0; i < 3; ++i) {
      if (t != 4) alone[t][i] = scale[chosen][i] * x[t][i];
      y[t][i] += to_host(router.complement_bias)[i] + alone[t][i];
    }
  }
  CHECK(relative_error(flat(out.y), flat(y)) <= 1e-12); // sums of a dozen terms in another order
  check_gradients(f);

  to_device(Row(15, 0.0), router.complement), to_device(Row(3, 0.0), router.complement_bias);
  f.forward();
  REQUIRE(f.result().y == alone); // bit for bit
}

Head::Policies head(std::size_t tokens, std::size_t symbols, Row const& logits, std::vector<index_t> const& targets) {
  OwnedTensor<double, Exec> const outputs("outputs", logits.size() / tokens / symbols, tokens, symbols);
  to_device(logits, outputs);
  OwnedVector<index_t, Exec> const symbol("targets", tokens);
  to_device(targets, symbol);
  Head::Policies policies;
  policies.experts.routed.outputs = outputs;
  policies.balancer = {.coefficient = 0.7f, .outputs = outputs, .targets = symbol};
  return policies;
}

TEST_CASE("FusionRoute over a vocabulary: the product of two distributions, constants do not count") {
  std::size_t const tokens = 6, symbols = 5;
  Row given = flat(random_logits(3 * tokens, symbols, 2));
  Shape const shape{.tokens = 6, .hidden = 5, .experts = 3, .router_hidden = 4};
  std::vector<index_t> const targets{0, 4, 2, none, 1, 3};
  Fixture<Head> f(shape, head(tokens, symbols, given, targets), 5);
  f.set_mask({1, 1, 0, 1, 1, 1});
  f.forward();
  auto const out = f.result();
  auto const x = matrix_of(f.x), z = products(matrix_of(f.router_input), matrix_of(f.parameters.router.weight));
  Rows y;
  double loss = 0, disagree = 0;
  auto const expert = [&](std::size_t e, std::size_t t) {
    auto const first = given.begin() + std::ptrdiff_t((e * tokens + t) * symbols);
    return Row(first, first + std::ptrdiff_t(symbols));
  };
  for (std::size_t t = 0; t < tokens; ++t) {
    auto sum = log_softmax(x[t]);
    auto const routed = log_softmax(expert(best(z[t], 1)[0], t));
    for (std::size_t v = 0; v < symbols && t != 2; ++v) sum[v] += routed[v];
    y.push_back(log_softmax(sum)); // a token without an expert: the router's own
    if (t == 2 || targets[t] == none) continue;
    std::size_t label = 0;
    bool agree = true;
    for (std::size_t e = 0; e < 3; ++e) {
      auto const v = std::size_t(targets[t]);
      if (log_softmax(expert(e, t))[v] > log_softmax(expert(label, t))[v]) label = e;
      agree = agree && best(expert(e, t), 1) == best(expert(0, t), 1);
    }
    if (agree) continue;
    loss -= log_softmax(z[t])[label];
    ++disagree;
  }
  CHECK(relative_error(flat(out.y), flat(y)) <= 1e-12);
  REQUIRE(disagree > 0);
  REQUIRE(out.loss == Approx(double(0.7f) * loss / disagree).epsilon(1e-12));
  check_gradients(f);

  auto shifted = given;
  for (std::size_t i = 0; i < shifted.size(); ++i) shifted[i] += 17 * (double(i / symbols % 3) - 1);
  Fixture<Head> constants(shape, head(tokens, symbols, shifted, targets), 5);
  constants.set_mask({1, 1, 0, 1, 1, 1});
  auto moved = flat(x);
  for (std::size_t i = 0; i < moved.size(); ++i) moved[i] -= 3 * double(i / symbols);
  to_device(moved, constants.x);
  constants.forward();
  REQUIRE(relative_error(flat(constants.result().y), flat(out.y)) <= 1e-13); // rounding of numbers of 17

  to_device(Row(moved.size(), 0.0), f.x); // no complement: the expert
  f.forward();
  for (std::size_t t = 0; t < tokens; ++t)
    if (t != 2) REQUIRE(relative_error(f.result().y[t], log_softmax(expert(best(z[t], 1)[0], t))) <= 1e-14);
}

TEST_CASE("FusionRoute: experts that each lack a symbol reach no target alone, with a learned complement they do") {
  Row const target{0.5, 0.3, 0.2};
  double entropy = 0;
  for (double const p : target) entropy -= p * std::log(p);
  double const never = -std::numeric_limits<double>::infinity();
  auto const cross_entropy = [&](Row const& log_probability) {
    double sum = 0;
    for (std::size_t v = 0; v < 3; ++v) sum -= target[v] * log_probability[v];
    return sum;
  };
  auto const run = [&](double missing) { // expert 0 lacks symbol 0, expert 1 symbol 2
    return Fixture<Head>({.tokens = 2, .hidden = 3, .experts = 2, .router_hidden = 2},
                         head(2, 3, {missing, 1, 0, missing, 1, 0, 0, 1, missing, 0, 1, missing}, {none, none}));
  };
  auto apart = run(never);
  to_device(Row{1, 0, 0, 1}, apart.router_input), to_device(Row{1, 0, 0, 1}, apart.parameters.router.weight);
  apart.forward(), apart.backward(); // one token has each expert
  REQUIRE(apart.result().choice == std::vector<std::vector<int>>{{0}, {1}});
  for (auto const& y : apart.result().y) REQUIRE(cross_entropy(y) == std::numeric_limits<double>::infinity());
  for (double const g : tensor(apart.dx).read()) REQUIRE(std::isfinite(g)); // what cannot be said moves nothing
  REQUIRE(tensor(apart.dx).read()[0] == 0);

  auto f = run(-12); // nearly lacks it
  to_device(Row{1, 0, 0, 1}, f.router_input), to_device(Row{1, 0, 0, 1}, f.parameters.router.weight);
  Row x(6, 0.0), dy;
  to_device(x, f.x);
  f.forward();
  for (auto const& y : f.result().y) REQUIRE(cross_entropy(y) > entropy + 1); // the best that a choice can do
  for (std::size_t i = 0; i < 6; ++i) dy.push_back(-target[i % 3]);
  to_device(dy, f.dy);
  for (int step = 0; step < 200; ++step) {
    f.forward(false), f.backward();
    auto const dx = tensor(f.dx).read();
    for (std::size_t i = 0; i < 6; ++i) x[i] -= 4 * dx[i];
    to_device(x, f.x);
  }
  f.forward();
  for (auto const& y : f.result().y) REQUIRE(cross_entropy(y) == Approx(entropy).epsilon(1e-6));
}

TEST_CASE("given outputs weighted, beside the input that passes through: plain loops, gradients equal differences") {
  Row const given = flat(random_logits(3 * 5, 4, 9));
  Beside::Policies policies;
  policies.experts.routed.outputs = OwnedTensor<double, Exec>("outputs", 3, 5, 4);
  to_device(given, policies.experts.routed.outputs);
  Fixture<Beside> f({.tokens = 5, .hidden = 4, .experts = 3}, policies, 6, 3); // fewer tokens than outputs
  f.forward();
  auto const out = f.result();
  auto y = matrix_of(f.x);
  for (std::size_t t = 0; t < 3; ++t)
    for (std::size_t i = 0; i < 2; ++i)
      for (std::size_t h = 0; h < 4; ++h)
        y[t][h] += out.weights[t][i] * given[(std::size_t(out.choice[t][i]) * 5 + t) * 4 + h];
  CHECK(relative_error(flat(out.y), flat(y)) <= 1e-12);
  check_gradients(f);
  REQUIRE_THROWS_AS(Beside({.tokens = 6, .hidden = 4, .experts = 3}, policies), Error);
  REQUIRE_THROWS_AS(Beside({.tokens = 5, .hidden = 4, .experts = 2}, policies), Error);
  REQUIRE_THROWS_AS(Beside({.tokens = 5, .hidden = 3, .experts = 3}, policies), Error);
}

} // namespace fusion_route_test
