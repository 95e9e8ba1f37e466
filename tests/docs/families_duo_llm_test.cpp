// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/duo_llm.hpp>
#include <kokomo/stats/loads.hpp>

TEST_CASE("duo_llm") {
  // [snippet:duo_llm]
  using Layer = kokomo::models::DuoLlm<>;
  Layer::Policies policies;
  kokomo::models::configure_duo_llm(policies, /*big*/ 32, /*small*/ 2, /*bypass*/ true);
  Example<Layer> run({.tokens = 4, .hidden = 3, .experts = 2}, policies);
  run.set_logits({{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {0, 1, 0}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {1}, {2}, {1}}); // big, small, bypass, small
  REQUIRE(run.output()[2] == std::vector<double>{0, 0, 0});            // its residual connection is all it has
  double const cost = kokomo::stats::loads(run.exec, run.layer, run.tape).cost({1, 1.0 / 16, 0});
  REQUIRE(cost == 1 + 2.0 / 16);
  // [/snippet]
}

TEST_CASE("duo_llm_training") {
  // [snippet:duo_llm_training]
  using Layer = kokomo::models::DuoLlmTraining<>;
  Layer::Exec const exec;
  kokomo::Budget<Layer::Exec> const budget(exec, 2); // of all layers
  exec.fence();
  kokomo::test::to_device(std::vector<double>{1, 0}, budget.cost); // P_big is what counts
  Layer::Policies policies;
  policies.balancer = {.coefficient = 1, .target = 0.5f, .budget = budget};
  kokomo::models::configure_duo_llm(policies, 32, 2, /*bypass*/ false);
  kokomo::models::set_temperature(policies, 0.5f); // of this step
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2}, policies);
  run.set_logits({{0, 1}, {1, 0}});
  budget.reset(exec);
  run.forward(kokomo::Mode::training); // and the other layers'
  kokomo::OwnedVector<double, Layer::Exec> loss("loss", 1);
  policies.balancer.value(exec, loss);
  exec.fence();
  REQUIRE(kokomo::test::to_host(loss)[0] == Approx(0).margin(1e-9)); // half of what the big one would take
  REQUIRE(run.weights()[0][0] == Approx(1 / (1 + std::exp(-2))));    // softmax of (0, 2), best first
  // [/snippet]
}
