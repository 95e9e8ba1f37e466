// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/adaptive_routing.hpp>
#include <kokomo/schedule/depth_schedule.hpp>

TEST_CASE("noisy_top_k") {
  // [snippet:noisy_top_k]
  using Layer = kokomo::models::NoisyTopK<>;
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2},
                     {.router = {.scorer = {.floor = 1e-2f, .seed = 7}, .selector = {.k = 1}},
                      .balancer = {{{.coefficient = 1e-2f}, {.coefficient = 1e-2f, .k = 1}}},
                      .experts = {.intermediate = 4}});
  run.set_logits({{1, 0}, {1, 0}});
  example::fill(run.parameters.router.noise, 0); // a deviation of softplus(0) + floor everywhere
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}});
  // Importance (2, 0): CV^2 = 1. Load 2 Phi(+-1 / deviation): the half difference over the mean, squared.
  double const load = std::erf(1 / (std::log(2.0) + 1e-2) / std::sqrt(2.0));
  REQUIRE(run.loss() == Approx(1e-2 * 1 + 1e-2 * load * load));
  run.forward(kokomo::Mode::training);
  auto const z = run.logits()[0]; // noisy, clean, deviation, of two experts each
  REQUIRE((z[0] != z[2] && z[2] == 1 && z[4] == Approx(std::log(2.0) + 1e-2)));
  // [/snippet]
}

TEST_CASE("top_p_routing") {
  // [snippet:top_p_routing]
  using Layer = kokomo::models::TopPRouting<>;
  Example<Layer> run({.tokens = 2, .hidden = 4, .experts = 4},
                     {.router = {.selector = {.p = 0.4f}},
                      .balancer = {{kokomo::top_p_loss(1e-2f), {.coefficient = 1e-4f}}},
                      .experts = {.intermediate = 8}});
  run.set_logits({{20, 0, 0, 0}, {0, 0, 0, 0}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0, 1}}); // all of the mass; a quarter each
  REQUIRE(close(run.weights(), {{1}, {0.25, 0.25}}));           // the probabilities as they are
  // f = (1, 1/2, 0, 0), P = (5, 1, 1, 1) / 8; entropies 0 and ln 4
  REQUIRE(run.loss() == Approx(1e-2 * 4 * (5.0 / 8 + 1.0 / 16) + 1e-4 * std::log(4.0) / 2));
  // [/snippet]
}

TEST_CASE("re_moe") {
  // [snippet:re_moe]
  using Layer = kokomo::models::ReMoe<>;
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2},
                     {.balancer = {.target = 1, .initial = 0.5f}, .experts = {.intermediate = 4}});
  run.set_logits({{1, 2}, {-1, -2}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{1, 0}, {}});
  REQUIRE(close(run.weights(), {{2, 1}, {}}));           // the logits
  REQUIRE(run.output()[1] == std::vector<double>{0, 0}); // no expert
  REQUIRE(run.loss() == Approx(0.5 * 2 * (0.25 + 0.5))); // f = (1/2, 1/2), P = (1/2, 1)
  run.layer.step(run.exec, run.state);                   // one expert a token on average: as wanted
  REQUIRE(host(run.state.balancer.exponent)(0) == 0);
  run.set_logits({{1, -2}, {-1, -2}});
  run.forward(kokomo::Mode::training);
  run.layer.step(run.exec, run.state); // half an expert: the price falls
  run.forward(kokomo::Mode::training);
  REQUIRE(run.loss() == Approx(0.5 / 1.2 * 2 * (0.5 * 0.5)));
  // [/snippet]
}

TEST_CASE("dyna_moe") {
  // [snippet:dyna_moe]
  using Layer = kokomo::models::DynaMoe<>;
  constexpr kokomo::DepthSchedule most{.shape = kokomo::DepthShape::descending, .least = 1, .most = 3};
  Example<Layer> run({.tokens = 2, .hidden = 4, .experts = 4},
                     {.router = {.selector = {.tau = 0.5f, .at_most = most.at(/*layer*/ 0, /*layers*/ 3)}},
                      .experts = {.intermediate = 4}});
  run.set_logits({{4, 3, 2, 1}, {0, 0.5, -1, -2}}); // the batch's median: 0.75
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1, 2}, {1}}); // four are above it, none is
  double const sum = 1 + std::exp(-1) + std::exp(-2);
  REQUIRE(close(run.weights(), {{1 / sum, std::exp(-1) / sum, std::exp(-2) / sum}, {1}}));
  // [/snippet]
}
