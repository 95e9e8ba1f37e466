// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/gate/constant.hpp>
#include <kokomo/space/latent.hpp>
#include <kokomo/space/normalized_input.hpp>
#include <kokomo/space/same_space.hpp>

#include <map>

TEST_CASE("same_space") {
  // [snippet:same_space]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>>; // SameSpace is the default
  Layer const layer({.tokens = 1, .hidden = 6, .experts = 2}, {.experts = {.intermediate = 8}});
  auto const down = layer.describe_parameters().experts.down;
  REQUIRE(down.extent(1) == 6); // experts write rows of the layer's width
  static_assert(!Layer::has_space);
  // [/snippet]
}

TEST_CASE("normalized_input") {
  // [snippet:normalized_input]
  using Layer =
      kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate, kokomo::NoBalancer,
                    kokomo::SwiGluExperts, float, Kokkos::DefaultExecutionSpace, kokomo::NormalizedInput>;
  Example<Layer> run({.tokens = 2, .hidden = 3, .experts = 1},
                     {.experts = {.intermediate = 4}, .space = {.epsilon = 0}});
  run.set_x({{1, -2, 3}, {4, -8, 12}}); // the experts see the same row twice
  run.forward();
  auto const y = run.output();
  REQUIRE(close({y[0]}, {y[1]}));
  auto const logits = run.logits(); // the router does not
  REQUIRE(logits[1][0] == Approx(4 * logits[0][0]));
  // [/snippet]
}

TEST_CASE("latent") {
  // [snippet:latent]
  using Layer =
      kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<2>>, kokomo::SigmoidGate, kokomo::NoBalancer,
                    kokomo::SwiGluExperts, float, Kokkos::DefaultExecutionSpace, kokomo::Latent>;
  Example<Layer> run({.tokens = 4, .hidden = 12, .experts = 3}, {.experts = {.intermediate = 8}, .space = {.size = 5}});
  std::map<std::string, std::vector<std::size_t>> shapes;
  run.parameters.for_each([&](std::string const& name, auto const& view) {
    for (int d = 0; d < int(view.rank()); ++d) shapes[name].push_back(view.extent(d));
  });
  REQUIRE(shapes["space.in"] == std::vector<std::size_t>{5, 12});
  REQUIRE(shapes["experts.gate_up"] == std::vector<std::size_t>{3, 16, 5}); // 2 I rows on inputs of width 5
  REQUIRE(shapes["router.weight"] == std::vector<std::size_t>{3, 12});      // the router reads x
  run.forward();
  REQUIRE(run.output()[0].size() == 12);
  // [/snippet]
}
