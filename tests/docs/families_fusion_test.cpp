// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/fusion_route.hpp>

TEST_CASE("fusion_head") {
  // [snippet:fusion_head]
  using Layer = kokomo::models::FusionHead<>;
  // Two experts' logits of 3 tokens over 4 symbols, and the symbols that are to come.
  kokomo::OwnedTensor<float, Layer::Exec> const logits("logits", 2, 3, 4);
  kokomo::OwnedVector<kokomo::index_t, Layer::Exec> const targets("targets", 3);
  example::set(logits, 5, 0, 0, 1); // on the first token they disagree, on the others they say symbol 0
  Layer::Policies policies;
  policies.experts.routed.outputs = logits;
  policies.balancer = {.coefficient = 1, .outputs = logits, .targets = targets};
  kokomo::Shape const shape{.tokens = 3, .hidden = 4, .experts = 2, .router_hidden = 2};
  Example<Layer> run(shape, policies);
  kokomo::OwnedMatrix<float, Layer::Exec> const states("states", 3, 2); // of the router model, zero here
  run.inputs.router_input = states;
  run.forward(kokomo::Mode::training);
  REQUIRE(run.loss() == Approx(std::log(2))); // of one token: the second expert would have been better
  for (auto const& y : run.output()) {
    double sum = 0;
    for (double const log_probability : y) sum += std::exp(log_probability);
    REQUIRE(sum == Approx(1));
  }
  // [/snippet]
}

TEST_CASE("fusion_route") {
  // [snippet:fusion_route]
  using Layer = kokomo::models::FusionRoute<>;
  Example<Layer> run({.tokens = 2, .hidden = 4, .experts = 3}, {.experts = {.intermediate = 8}});
  run.forward();
  auto const y = run.output();
  example::fill(run.parameters.experts.down, 0); // the experts fall silent
  run.forward();
  REQUIRE(!close(run.output(), {std::vector<double>(4), std::vector<double>(4)}));
  example::fill(run.parameters.router.complement, 0);
  run.forward();
  REQUIRE(close(run.output(), {std::vector<double>(4), std::vector<double>(4)}));
  // [/snippet]
}
