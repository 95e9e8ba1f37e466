// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/models/dr_llm.hpp>

namespace dr_llm_test {

using namespace kokomo;
using namespace kokomo::test;

using Subject = models::DrLlm<double, Exec>;
constexpr std::size_t hidden = 3, units = 4;

/// F(x), a SwiGLU: gate above up.
Row block(Row const& gate_up, Row const& down, Row const& x) {
  Row y(hidden, 0.0);
  for (std::size_t i = 0; i < units; ++i) {
    double gate = 0, up = 0;
    for (std::size_t h = 0; h < hidden; ++h)
      gate += gate_up[i * hidden + h] * x[h], up += gate_up[(units + i) * hidden + h] * x[h];
    for (std::size_t h = 0; h < hidden; ++h) y[h] += down[h * units + i] * gate / (1 + std::exp(-gate)) * up;
  }
  return y;
}

TEST_CASE("Dr.LLM: a sequence skips the block, runs it once or twice, gradients through both runs and of the labels") {
  std::vector<int> seen(3, 0);
  for (unsigned seed = 1; seed <= 6; ++seed) {
    Subject::Policies policies;
    policies.router.scorer = {.tokens_per_sequence = 4, .windows = 2, .inner = {.hidden = 5, .biases = true}};
    policies.experts.inner.intermediate = units;
    policies.balancer.labels = OwnedVector<index_t, Exec>("labels", 11);
    to_device(std::vector<index_t>{2, -1, -1, -1, 0, -1, -1, -1, 1, -1, -1}, policies.balancer.labels);
    Fixture<Subject> f({.tokens = 11, .hidden = hidden, .experts = 1}, policies, seed);
    f.fill(f.parameters.router.weight, 4);
    f.forward();
    auto const out = f.result();
    auto const x = in_rows(in_double(to_host(f.x)), 11);
    auto const gate_up = in_double(to_host(f.parameters.experts.gate_up)),
               down = in_double(to_host(f.parameters.experts.down));
    Rows y = x;
    double loss = 0;
    for (std::size_t t = 0; t < 11; ++t) {
      auto const& z = out.logits[t];
      REQUIRE(z == out.logits[t / 4 * 4]); // a sequence decides once
      auto const runs = int(std::max_element(z.begin(), z.end()) - z.begin());
      REQUIRE(out.choice[t] == std::vector<int>{runs});
      ++seen[std::size_t(runs)];
      for (int run = 0; run < runs; ++run) {
        auto const more = block(gate_up, down, y[t]);
        for (std::size_t h = 0; h < hidden; ++h) y[t][h] += more[h];
      }
      if (runs == 0) REQUIRE(out.y[t] == x[t]); // bit for bit
      if (t % 4 != 0) continue;
      double sum = 0;
      for (double const v : z) sum += std::exp(v);
      double const p = std::exp(z[std::size_t(t == 0 ? 2 : t == 4 ? 0 : 1)]) / sum;
      loss -= (1 - p) * (1 - p) * std::log(p) / 3;
    }
    CHECK(relative_error(flat(out.y), flat(y)) < 1e-12); // sums of a dozen terms in another order
    REQUIRE(out.loss == Approx(loss).epsilon(1e-12));
    check_grouping(f);
    check_gradients(f);
  }
  for (int const count : seen) REQUIRE(count > 0);
}

TEST_CASE("repeated experts: one block, no more") {
  Subject::Policies policies;
  policies.router.scorer = {.tokens_per_sequence = 4, .inner = {.hidden = 5}};
  policies.experts.inner.intermediate = 2;
  policies.balancer.labels = OwnedVector<index_t, Exec>("labels", 4);
  REQUIRE(Subject({.tokens = 4, .hidden = 3, .experts = 1}, policies).sizes().experts == 3);
  REQUIRE_THROWS_AS(Subject({.tokens = 4, .hidden = 3, .experts = 2}, policies), Error);
}

} // namespace dr_llm_test
