// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/routing_fixture.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/adjust/selective_sinkhorn.hpp>

#include <algorithm>
#include <random>

namespace selective_sinkhorn_test {

using namespace kokomo;
using namespace kokomo::test;

Rows skewed(std::size_t tokens, std::size_t experts, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  Row offset(experts);
  for (double& o : offset) o = normal(engine);
  Rows rows(tokens, Row(experts));
  for (auto& row : rows)
    for (std::size_t e = 0; e < experts; ++e) row[e] = normal(engine) + offset[e];
  return rows;
}

/// What the logits become.
template <class T = double> Rows adjusted(SelectiveSinkhorn const& policy, Rows const& logits) {
  RoutingFixture<T> f(logits);
  f.routing.mode = Mode::training;
  f.prepare_for(TopK<>{.k = 1});
  auto const saved = f.saved_of(policy);
  policy.adjust<T>(f.exec, {}, f.routing, {}, {}, Matrix<compute_t<T>, Exec>(f.logits), saved);
  f.exec.fence();
  return in_rows(in_double(to_host(f.logits)), logits.size());
}
Rows plan_of(SelectiveSinkhorn const& policy, Rows const& logits) {
  auto plan = adjusted(policy, logits);
  for (auto& row : plan)
    for (double& p : row) p = std::exp(p);
  return plan;
}
/// To the last digits, on every step.
SelectiveSinkhorn converged(double regularization, SinkhornCost cost = SinkhornCost::linear) {
  return {.probability = 1,
          .cost = cost,
          .regularization = float(regularization),
          .iterations = 5000,
          .tolerance = 1e-14f,
          .detach = false};
}

TEST_CASE("the plan of the symmetric 2 x 2 problem in closed form") {
  auto const plan = plan_of(converged(0.5), {{.73, .27}, {.27, .73}});
  double const p = 1 / (1 + std::exp(-(.73 - .27) / .5)); // sigmoid((c11 - c12) / xi) = 0.71504
  REQUIRE(plan[0][0] == Approx(p));
  REQUIRE(plan[0][1] == Approx(1 - p));
  REQUIRE(plan[1][1] == Approx(p));
}

TEST_CASE("the plan's sums are equal, and shifts of rows and columns do not change it") {
  auto const logits = skewed(40, 5, 2);
  auto const plan = plan_of(converged(0.5), logits);
  Row columns(5);
  for (auto const& row : plan) {
    double sum = 0;
    for (std::size_t e = 0; e < 5; ++e) sum += row[e], columns[e] += row[e];
    REQUIRE(sum == Approx(1));
  }
  for (double const sum : columns) REQUIRE(sum == Approx(8));

  auto shifted = logits;
  for (std::size_t t = 0; t < 40; ++t)
    for (std::size_t e = 0; e < 5; ++e) shifted[t][e] += 0.1 * double(t) - double(e);
  // the column sums, and with them the plan, are as good as the tolerance
  CHECK(relative_error(flat(plan_of(converged(0.5), shifted)), flat(plan)) < 1e-10);
}

TEST_CASE("a linear cost balances the choice of the k best, that of the softmax less") {
  auto const logits = skewed(4096, 16, 3);
  auto const violation = [&](Rows const& ranks) {
    RoutingFixture<float> f(ranks);
    f.select<SoftmaxScore>(TopK<>{.k = 2});
    auto const loads = f.loads();
    return double(*std::max_element(loads.begin(), loads.end())) / 512 - 1;
  };
  auto const with = [&](double xi, SinkhornCost cost) {
    SelectiveSinkhorn const policy{.probability = 1, .cost = cost, .regularization = float(xi)};
    return violation(adjusted<float>(policy, logits));
  };
  CHECK(violation(logits) > 2);
  CHECK(with(0.5, SinkhornCost::linear) < 0.1);
  CHECK(with(1.0, SinkhornCost::linear) < 0.1);
  CHECK(with(0.05, SinkhornCost::softmax) < 0.6);
  CHECK(with(1.0, SinkhornCost::softmax) > 0.6); // sums are equal all the same: mass is not load
}

TEST_CASE("which steps use the plan is drawn from seed, step and layer alone") {
  SelectiveSinkhorn const policy{.probability = 0.1, .seed = 3};
  int const n = 20000;
  int count = 0, same = 0;
  for (int step = 0; step < n; ++step) {
    bool const uses = policy.uses_plan(Mode::training, std::uint64_t(step));
    count += uses;
    REQUIRE(policy.uses_plan(Mode::training, std::uint64_t(step)) == uses);
    REQUIRE(!policy.uses_plan(Mode::inference, std::uint64_t(step)));
    SelectiveSinkhorn other = policy;
    other.layer = 1;
    same += other.uses_plan(Mode::training, std::uint64_t(step)) && uses;
  }
  double const spread = 4 * std::sqrt(0.1 * 0.9 * n); // four standard deviations
  CHECK(std::abs(count - 0.1 * n) < spread);
  CHECK(std::abs(same - 0.01 * n) < 4 * std::sqrt(0.01 * 0.99 * n));
}

template <class Adjust>
using Subject =
    Layer<Router<LinearScorer, TopK<>>, NormalizedSoftmaxGate, NoBalancer, ScaleExperts, double, Exec, Adjust>;

TEST_CASE("selective Sinkhorn routing: weights, gradients, inference") {
  Shape const shape{.tokens = 7, .hidden = 3, .experts = 4};
  for (auto const cost : {SinkhornCost::linear, SinkhornCost::softmax}) {
    Fixture<Subject<SelectiveSinkhorn>> fixture(shape, {.adjust = converged(1, cost)});
    fixture.mode = Mode::training;
    fixture.set_mask({1, 1, 1, 1, 0, 1, 1});
    fixture.forward();
    auto const out = fixture.result();
    for (std::size_t t = 0; t < 7; ++t) {
      if (t == 4) continue;
      double sum = 0; // the plan's entries, normalised over the chosen
      for (int const e : out.choice[t]) sum += std::exp(out.logits[t][std::size_t(e)]);
      for (std::size_t j = 0; j < 2; ++j)
        REQUIRE(out.weights[t][j] == Approx(std::exp(out.logits[t][std::size_t(out.choice[t][j])]) / sum));
    }
    check_gradients(fixture);
  }

  // Gradients of any scale: the adjoint's end is relative.
  SelectiveSinkhorn loose = converged(1);
  loose.tolerance = 1e-6f;
  Fixture<Subject<SelectiveSinkhorn>> large(shape, {.adjust = loose});
  large.mode = Mode::training;
  large.forward(), large.backward();
  auto const gradient = in_double(to_host(large.gradients.router.weight));
  auto dy = in_double(to_host(large.dy));
  for (double& value : dy) value *= 1e-9;
  to_device(dy, large.dy);
  large.backward();
  auto small = in_double(to_host(large.gradients.router.weight));
  for (double& value : small) value *= 1e9;
  REQUIRE(norm(gradient) > 0);
  REQUIRE(relative_error(small, gradient) < 1e-12); // the same iterations, other exponents

  SelectiveSinkhorn detached = converged(1);
  detached.detach = true;
  Fixture<Subject<SelectiveSinkhorn>> fixture(shape, {.adjust = detached});
  Fixture<Subject<NoAdjustment>> plain(shape);
  fixture.forward(), plain.forward(); // inference: bit for bit
  REQUIRE(fixture.result().y == plain.result().y);
  fixture.backward(), plain.backward();
  REQUIRE(to_host(fixture.gradients.router.weight) == to_host(plain.gradients.router.weight));
  fixture.mode = Mode::training;
  fixture.forward(), fixture.backward();
  REQUIRE(norm(in_double(to_host(fixture.gradients.router.weight))) == 0);
}

TEST_CASE("selective Sinkhorn routing: settings that make no sense") {
  Sizes const sizes{.tokens = 4, .experts = 2};
  REQUIRE_THROWS_AS((SelectiveSinkhorn{.probability = 1.5}.check(sizes)), Error);
  REQUIRE_THROWS_AS((SelectiveSinkhorn{.regularization = 0}.check(sizes)), Error);
  REQUIRE_THROWS_AS((SelectiveSinkhorn{.iterations = 0}.check(sizes)), Error);
  REQUIRE_THROWS_AS((SelectiveSinkhorn{.tolerance = -1}.check(sizes)), Error);
}

} // namespace selective_sinkhorn_test
