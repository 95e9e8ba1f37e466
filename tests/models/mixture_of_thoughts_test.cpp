// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "preset.hpp"

#include <support/cross_attention.hpp>
#include <support/finite_differences.hpp>

#include <kokomo/models/mixture_of_thoughts.hpp>

namespace mixture_of_thoughts_test {

using namespace kokomo;
using namespace kokomo::test;

using Subject = models::MixtureOfThoughts<double, Exec, ScaleExperts>;

double gelu_tanh(double x) {
  return x / 2 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

TEST_CASE("Mixture of Thoughts: a sequence's experts, their primary one attends over all, losses of the router alone") {
  Subject::Policies policies;
  policies.router = {.scorer = {.tokens_per_sequence = 4, .inner = {.hidden = 5, .biases = true}},
                     .selector = {.k = 3}};
  policies.balancer = {{{.coefficient = 0.3f}, {.coefficient = 0.2f}}};
  policies.combine = {.width = 4, .heads = 2};
  Fixture<Subject> f({.tokens = 10, .hidden = 3, .experts = 5}, policies, 2);
  f.forward();
  auto const out = f.result();
  auto const x = matrix_of(f.x), scale = matrix_of(f.parameters.experts.scale);
  auto const& router = f.parameters.router;
  Rows y, mass;
  std::vector<double> counts(5, 0.0);
  double entropy = 0;
  for (std::size_t t = 0; t < 10; ++t) {
    std::size_t const first = t / 4 * 4, last = std::min<std::size_t>(10, first + 4);
    Row mean(3, 0.0);
    for (std::size_t s = first; s < last; ++s)
      for (std::size_t h = 0; h < 3; ++h) mean[h] += x[s][h] / double(last - first);
    Row hidden = product(in_double(to_host(router.hidden_weight)), 0, 5, mean);
    for (std::size_t i = 0; i < 5; ++i) hidden[i] = gelu_tanh(hidden[i] + to_host(router.hidden_bias)[i]);
    Row z = product(in_double(to_host(router.weight)), 0, 5, hidden);
    for (std::size_t e = 0; e < 5; ++e) z[e] += to_host(router.bias)[e];
    auto const chosen = best(z, 3);
    Thoughts token;
    for (auto const e : chosen) {
      token.experts.push_back(e), token.outputs.push_back(x[t]), token.weights.push_back(1);
      for (std::size_t h = 0; h < 3; ++h) token.outputs.back()[h] *= scale[e][h];
      ++counts[e];
    }
    REQUIRE(out.choice[t] == std::vector<int>(chosen.begin(), chosen.end()));
    y.push_back(primary_cross_attention(f.parameters.combine, 4, 2, false, token));
    auto const p = softmax(z);
    mass.push_back(p);
    for (double const value : p) entropy -= value * std::log(value) / 10;
  }
  CHECK(relative_error(flat(out.y), flat(y)) <= 1e-12); // sums of a dozen terms in another order
  double balance = 0;                                   // E times the sum over experts of f_e P_e
  for (std::size_t e = 0; e < 5; ++e)
    for (auto const& p : mass) balance += 5 * counts[e] / 10 * p[e] / 10;
  REQUIRE(out.loss == Approx(double(0.3f) * entropy + double(0.2f) * balance).epsilon(1e-12));
  check_grouping(f);
  check_gradients(f);

  // the output says nothing to the router: without losses it has no gradient
  policies.balancer = {{{.coefficient = 0}, {.coefficient = 0}}};
  Fixture<Subject> silent({.tokens = 10, .hidden = 3, .experts = 5}, policies, 2);
  silent.forward(), silent.backward();
  REQUIRE(norm(in_double(to_host(silent.gradients.router.weight))) == 0);
}

} // namespace mixture_of_thoughts_test
