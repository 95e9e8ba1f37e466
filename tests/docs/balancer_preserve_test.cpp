// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/adaptive_routing.hpp>

TEST_CASE("preserve_loss") {
  // [snippet:preserve_loss]
  using Layer = kokomo::models::LoraMixer<>;
  kokomo::Shape const shape{.tokens = 3, .hidden = 6, .experts = 4};
  Layer::Policies policies{.router = {.selector = {.k = 4}}, .experts = {.intermediate = 2}}; // rank 2, all of them
  using Anchor = decltype(Layer::Parameters::experts);
  Layer::Exec const exec;
  Anchor const anchor(kokomo::Allocator<Layer::Exec>(exec), policies.experts,
                      {.hidden = 6, .weighted = 4}); // begin as zeros: copy the adapters here before training
  policies.balancer = kokomo::models::lora_mixer_balance(/*product*/ 0, /*entropy*/ 0, 4, 4, /*preserve*/ 0.5f, anchor);
  Example<Layer> run(shape, policies);
  run.forward(kokomo::Mode::training);
  double squares = 0;
  run.parameters.experts.for_each(
      [&](auto const&, auto const& view) {
        auto const values = host(view);
        for (std::size_t i = 0; i < values.size(); ++i) squares += values.data()[i] * values.data()[i];
      },
      "");
  REQUIRE(std::abs(run.loss() - 0.5 * squares) < 1e-5);
  // [/snippet]
}
