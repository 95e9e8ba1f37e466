// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "preset.hpp"

#include <support/finite_differences.hpp>
#include <support/swiglu.hpp>

#include <kokomo/models/duo_llm.hpp>
#include <kokomo/stats/loads.hpp>

#include <limits>

namespace duo_llm_test {

using namespace kokomo;
using namespace kokomo::test;

using Hard = models::DuoLlm<double, Exec>;
using Soft = models::DuoLlmTraining<double, Exec>;
constexpr Shape shape{.tokens = 9, .hidden = 3, .experts = 2};

template <class Layer> typename Layer::Policies policies() {
  typename Layer::Policies p;
  models::configure_duo_llm(p, 6, 2, true);
  return p;
}
Soft::Policies policies_with(Budget<Exec> const& budget, float coefficient) {
  auto p = policies<Soft>();
  p.balancer = {.coefficient = coefficient, .target = 0.4f, .budget = budget};
  return p;
}

/// Big, small, or nothing.
template <class F> Row expert(F const& f, std::size_t e, Row const& x) {
  auto const& parts = f.parameters.experts.parts;
  return e == 0 ? swiglu(std::get<0>(parts), 0, x) : e == 1 ? swiglu(std::get<1>(parts), 0, x) : Row(x.size(), 0.0);
}

Row costs{1, 1.0 / 16, 0};

TEST_CASE("Duo-LLM: one expert whole, a bypassed token keeps its bits, the meter adds up what was chosen") {
  Fixture<Hard> f(shape, policies<Hard>(), 3);
  f.forward();
  auto const out = f.result();
  auto const x = matrix_of(f.x);
  std::vector<int> seen(3, 0);
  double cost = 0;
  for (std::size_t t = 0; t < x.size(); ++t) {
    auto const chosen = best(out.logits[t], 1);
    REQUIRE(out.choice[t] == std::vector<int>{int(chosen[0])});
    REQUIRE(out.weights[t] == Row{1});
    ++seen[chosen[0]];
    cost += costs[chosen[0]];
    auto const y = expert(f, chosen[0], x[t]);
    CHECK(relative_error(out.y[t], y) <= 1e-12); // sums of a dozen terms in another order
    if (chosen[0] != 2) continue;
    for (std::size_t h = 0; h < 3; ++h) REQUIRE(x[t][h] + out.y[t][h] == x[t][h]); // with the residual connection
  }
  for (int const count : seen) REQUIRE(count > 0);
  REQUIRE(stats::loads(f.exec, f.layer, f.tape).cost(costs) == cost); // sums of powers of two
  check_grouping(f);
  check_gradients(f);

  auto identity = policies<Hard>(); // for a layer without a residual connection around it
  identity.experts.zero = 0, identity.experts.identity = 1;
  Fixture<Hard> bypass(shape, identity, 3);
  bypass.forward();
  for (std::size_t t = 0; t < x.size(); ++t)
    if (out.choice[t][0] == 2) REQUIRE(bypass.result().y[t] == x[t]);
}

TEST_CASE("Duo-LLM in training: all experts by a softmax over the temperature, which turns into the choice of one") {
  Budget<Exec> const budget(Exec{}, 3);
  auto soft = policies_with(budget, 0); // the loss is of all layers, and so not in a layer's own
  for (float const temperature : {2.0f, 0.5f, 1.0f / 1024}) {
    models::set_temperature(soft, temperature);
    Fixture<Soft> f(shape, soft, 3);
    f.forward();
    auto const out = f.result();
    auto const x = matrix_of(f.x), w = matrix_of(f.parameters.router.weight);
    auto const z = products(x, w);
    Rows y(x.size(), Row(3, 0.0));
    for (std::size_t t = 0; t < x.size(); ++t) {
      Row tempered = z[t];
      for (double& v : tempered) v /= double(temperature);
      auto const p = softmax(tempered);
      for (std::size_t e = 0; e < 3; ++e) {
        auto const part = expert(f, e, x[t]);
        for (std::size_t h = 0; h < 3; ++h) y[t][h] += p[e] * part[h];
      }
    }
    CHECK(relative_error(flat(out.y), flat(y)) <= 1e-12);
    if (temperature > 0.1f) {
      check_gradients(f);
      continue;
    }
    Fixture<Hard> hard(shape, policies<Hard>(), 3); // the same numbers
    hard.forward();
    CHECK(relative_error(flat(out.y), flat(hard.result().y)) <= 1e-6); // exp(-1024 times a difference of logits)
  }
  REQUIRE_THROWS_AS(models::set_temperature(soft, 0), Error);
}

TEST_CASE("Duo-LLM: two layers share one budget, whichever spends it, and its gradient reaches both routers") {
  Exec const exec;
  Budget<Exec> const budget(exec, 3);
  exec.fence();
  to_device(costs, budget.cost);
  auto const both = policies_with(budget, 3);
  Fixture<Soft> lower(shape, both, 5), upper(shape, both, 6);
  OwnedVector<double, Exec> value("value", 1);
  auto const loss = [&](Fixture<Soft>& first, Fixture<Soft>& second) {
    budget.reset(exec);
    first.forward(false), second.forward(false);
    both.balancer.value(exec, value);
    exec.fence();
    return to_host(value)[0];
  };
  auto const spent = [](Fixture<Soft> const& f) {
    double sum = 0;
    for (auto const& z : f.result().logits) {
      auto const p = softmax(z);
      for (std::size_t e = 0; e < 3; ++e) sum += p[e] * costs[e];
    }
    return sum;
  };
  double const found = loss(lower, upper);
  double const over = (spent(lower) + spent(upper)) / 18 - double(0.4f);
  REQUIRE(found == Approx(3 * over * over).epsilon(1e-12));
  REQUIRE(loss(upper, lower) == Approx(found).epsilon(1e-14));

  for (Fixture<Soft>* f : {&lower, &upper}) {
    to_device(Row(27, 0.0), f->dy); // the budget alone
    f->backward();
    auto const weight = tensor(f->parameters.router.weight);
    auto const at = weight.read();
    Row differences;
    for (std::size_t i = 0; i < at.size(); ++i) {
      double const step = 1e-5;
      auto moved = at;
      moved[i] += step, weight.write(moved);
      double const above = loss(lower, upper);
      moved[i] -= 2 * step, weight.write(moved);
      differences.push_back((above - loss(lower, upper)) / (2 * step));
      weight.write(at), loss(lower, upper);
    }
    // the step squared times a third derivative of order one, and rounding over the step
    REQUIRE(relative_error(tensor(f->gradients.router.weight).read(), differences) <= 1e-6);
  }
}

TEST_CASE("Duo-LLM: the best of all paths through two layers is at least as good as the routers' path") {
  Fixture<Hard> lower(shape, policies<Hard>(), 7), upper(shape, policies<Hard>(), 8);
  auto const x = matrix_of(lower.x);
  lower.forward();
  Rows between = x;
  auto const first = lower.result();
  for (std::size_t t = 0; t < x.size(); ++t)
    for (std::size_t h = 0; h < 3; ++h) between[t][h] += first.y[t][h];
  to_device(flat(between), upper.x);
  upper.forward();
  auto const second = upper.result();
  int better = 0;
  for (std::size_t t = 0; t < x.size(); ++t) {
    Row const target{0.5, -1, 1.5};
    auto const after = [&](auto const& f, std::size_t e, Row h) {
      auto const y = expert(f, e, h);
      for (std::size_t i = 0; i < 3; ++i) h[i] += y[i];
      return h;
    };
    double oracle = std::numeric_limits<double>::infinity(), of_path = oracle;
    for (std::size_t e = 0; e < 3; ++e)
      for (std::size_t g = 0; g < 3; ++g) {
        double const error = distance(after(upper, g, after(lower, e, x[t])), target);
        oracle = std::min(oracle, error);
        if (first.choice[t][0] == int(e) && second.choice[t][0] == int(g)) of_path = error;
      }
    Row routed = between[t];
    for (std::size_t h = 0; h < 3; ++h) routed[h] += second.y[t][h];
    REQUIRE(distance(routed, target) == Approx(of_path).epsilon(1e-12)); // the layers took a path of the nine
    REQUIRE(oracle <= distance(routed, target) * (1 + 1e-12));
    better += oracle < of_path;
  }
  REQUIRE(better > 0); // an oracle sees the target: no bound that a router can reach
}

} // namespace duo_llm_test
