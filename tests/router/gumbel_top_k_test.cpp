// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>

#include <kokomo/gate/constant.hpp>
#include <kokomo/router/gumbel_top_k.hpp>

#include <map>

namespace gumbel_top_k_test {

using namespace kokomo;
using namespace kokomo::test;

Row softmax(Row const& z) {
  Row p;
  double sum = 0;
  for (double v : z) sum += std::exp(v);
  for (double v : z) p.push_back(std::exp(v) / sum);
  return p;
}

/// Q of an ordered choice, as written: each probability over what is left.
double probability(Row const& q, std::vector<int> const& choice) {
  double product = 1, left = 1;
  for (int const e : choice) product *= q[std::size_t(e)] / left, left -= q[std::size_t(e)];
  return product;
}

/// All ordered choices of k of n.
std::vector<std::vector<int>> ordered_choices(int n, int k) {
  if (k == 0) return {{}};
  std::vector<std::vector<int>> all;
  for (auto const& shorter : ordered_choices(n, k - 1))
    for (int e = 0; e < n; ++e)
      if (std::find(shorter.begin(), shorter.end(), e) == shorter.end()) {
        all.push_back(shorter);
        all.back().push_back(e);
      }
  return all;
}

/// A fixture whose tokens have chosen what is said, and log Q of that.
Row log_probabilities(RoutingFixture<>& f, std::vector<std::vector<int>> const& choice) {
  f.prepare_for(GumbelTopK{.k = int(choice[0].size())});
  std::vector<index_t> flat_choice;
  std::vector<offset_t> offsets{0};
  for (auto const& token : choice) {
    flat_choice.insert(flat_choice.end(), token.begin(), token.end());
    offsets.push_back(offset_t(flat_choice.size()));
  }
  to_device(flat_choice, f.assignment.expert);
  to_device(offsets, f.assignment.token_offsets);
  OwnedVector<double, Exec> out("out", choice.size());
  draw_log_probability<double>(f.exec, f.routing, f.assignment, Vector<double, Exec>(out));
  f.exec.fence();
  return to_host(out);
}

TEST_CASE("gumbel top-k: inference takes the k best, training draws") {
  RoutingFixture<> f({{0.5, 2, 1, -0.5}, {0, 0, 0, 0}});
  f.select<IdentityScore>(GumbelTopK{.k = 3});
  REQUIRE(f.chosen() == std::vector<std::vector<int>>{{1, 2, 0}, {0, 1, 2}});
  f.routing.mode = Mode::training;
  std::map<std::vector<int>, int> seen;
  for (std::uint64_t step = 0; step < 50; ++step) {
    f.routing.step = step;
    f.select<IdentityScore>(GumbelTopK{.k = 3, .seed = 1});
    ++seen[f.chosen()[0]];
    auto const again = f.chosen();
    f.select<IdentityScore>(GumbelTopK{.k = 3, .seed = 1});
    REQUIRE(f.chosen() == again);
  }
  REQUIRE(seen.size() > 5);
}

TEST_CASE("gumbel top-k has the law of sequential draws without replacement") {
  int const n = 20000;
  Row const z{0.5, 1.5, 0, -1};
  RoutingFixture<> f(Rows(n, z));
  f.routing.mode = Mode::training;
  f.select<IdentityScore>(GumbelTopK{.k = 2, .seed = 9});
  std::map<std::vector<int>, double> share;
  for (auto const& choice : f.chosen()) share[choice] += 1.0 / n;
  double total = 0;
  for (auto const& choice : ordered_choices(4, 2)) {
    double const p = probability(softmax(z), choice);
    total += p;
    CHECK(std::abs(share[choice] - p) < 4 * std::sqrt(p * (1 - p) / n)); // four standard deviations
  }
  REQUIRE(std::abs(total - 1) < 1e-14);
}

TEST_CASE("log Q equals the product formula, sums to one, and holds where probabilities underflow") {
  Row const z{0.3, -1.2, 2, 0.7, -0.1};
  auto const choices = ordered_choices(5, 3);
  RoutingFixture<> f(Rows(choices.size(), z));
  auto const log_q = log_probabilities(f, choices);
  double total = 0;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    REQUIRE(std::abs(log_q[i] - std::log(probability(softmax(z), choices[i]))) < 1e-13);
    total += std::exp(log_q[i]);
  }
  REQUIRE(std::abs(total - 1) < 1e-13);
  // the first has all of the mass that float64 can see; the second then has half of what is left
  RoutingFixture<> extreme(Rows{{800, 0, 0}});
  REQUIRE(std::abs(log_probabilities(extreme, {{0, 1}})[0] - std::log(0.5)) < 1e-14);
}

TEST_CASE("the gradient of log Q equals differences, and its mean over all draws is zero") {
  Row const z{0.3, -1.2, 2, 0.7};
  auto const choices = ordered_choices(4, 2);
  RoutingFixture<> f(Rows(choices.size(), z));
  auto const log_q = log_probabilities(f, choices);
  OwnedVector<double, Exec> factor("factor", choices.size());
  OwnedMatrix<double, Exec> d("d", choices.size(), 4);
  to_device(Row(choices.size(), 1.0), factor);
  draw_log_probability_gradient<double>(f.exec, f.routing, f.assignment, Vector<double const, Exec>(factor),
                                        Matrix<double, Exec>(d));
  f.exec.fence();
  auto const gradients = in_rows(to_host(d), choices.size());
  Row mean(4);
  for (std::size_t i = 0; i < choices.size(); ++i) {
    auto const differences = logit_differences(
        {z}, [&](Rows const& logits) { return std::log(probability(softmax(logits[0]), choices[i])); });
    REQUIRE(distance(gradients[i], differences[0]) < 1e-9); // h^2 = 1e-10 and rounding 1e-11
    for (std::size_t e = 0; e < 4; ++e) mean[e] += std::exp(log_q[i]) * gradients[i][e];
  }
  REQUIRE(norm(mean) < 1e-14); // sum of Q grad log Q = grad 1
}

TEST_CASE("a score-function estimate with leave-one-out baselines is unbiased: every pair of draws enumerated") {
  // papers: ReMix. M = 2 draws I_1, I_2, losses L(I): G = sum_m (L_m - mean L) grad log Q(I_m)
  Row const z{0.2, -0.5, 1, 0.4}, q = softmax(z);
  auto const choices = ordered_choices(4, 2);
  auto const loss = [](std::vector<int> const& c) { return std::sin(1 + c[0] * 2.3 + c[1] * c[1]); };
  RoutingFixture<> f(Rows(choices.size(), z));
  auto const log_q = log_probabilities(f, choices);
  OwnedVector<double, Exec> factor("factor", choices.size());
  OwnedMatrix<double, Exec> d("d", choices.size(), 4);
  to_device(Row(choices.size(), 1.0), factor);
  draw_log_probability_gradient<double>(f.exec, f.routing, f.assignment, Vector<double const, Exec>(factor),
                                        Matrix<double, Exec>(d));
  f.exec.fence();
  auto const g = in_rows(to_host(d), choices.size());
  Row estimate(4), exact(4);
  for (std::size_t i = 0; i < choices.size(); ++i)
    for (std::size_t e = 0; e < 4; ++e) {
      exact[e] += std::exp(log_q[i]) * loss(choices[i]) * g[i][e];
      for (std::size_t j = 0; j < choices.size(); ++j) {
        double const mean = (loss(choices[i]) + loss(choices[j])) / 2;
        estimate[e] +=
            std::exp(log_q[i] + log_q[j]) * ((loss(choices[i]) - mean) * g[i][e] + (loss(choices[j]) - mean) * g[j][e]);
      }
    }
  auto const expectation = [&](Rows const& logits) {
    double sum = 0;
    for (auto const& c : choices) sum += probability(softmax(logits[0]), c) * loss(c);
    return sum;
  };
  REQUIRE(distance(exact, logit_differences({z}, expectation)[0]) < 1e-9);
  REQUIRE(distance(estimate, exact) < 1e-14);
}

TEST_CASE("gumbel top-k: masks, and effective support with a constant gate") {
  RoutingFixture<> f(Rows(6, Row{1, 2, 3, 4, 5}));
  f.routing.mode = Mode::training;
  f.set_token_mask({1, 1, 0, 1, 1, 1});
  f.set_expert_mask({1, 0, 1, 1, 0});
  f.select<IdentityScore>(GumbelTopK{.k = 3, .seed = 4});
  f.weigh(ConstantGate{.value = 0.25f});
  auto const chosen = f.chosen();
  auto const weights = f.weights();
  REQUIRE(chosen[2].empty());
  for (std::size_t t : {0, 1, 3, 4, 5}) {
    auto sorted = chosen[t];
    std::sort(sorted.begin(), sorted.end());
    REQUIRE(sorted == std::vector<int>{0, 2, 3});
    double sum = 0, squares = 0;
    for (double const w : weights[t]) sum += w, squares += w * w;
    REQUIRE(sum * sum / squares == 3); // effective support size = k
  }
}

} // namespace gumbel_top_k_test
