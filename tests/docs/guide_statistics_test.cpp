// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/router/top_k.hpp>
#include <kokomo/stats/choices.hpp>
#include <kokomo/stats/history.hpp>

#include <fstream>

TEST_CASE("statistics") {
  namespace stats = kokomo::stats;
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::SoftmaxGate,
                              kokomo::NoBalancer, kokomo::test::ScaleExperts>;
  Example<Layer> run({.tokens = 4, .hidden = 3, .experts = 3});
  auto const& exec = run.exec;
  auto const& layer = run.layer;
  auto const& tape = run.tape;
  run.set_logits({{1, 0, 0}, {1, 0, 0}, {1, 0, 0}, {0, 1, 0}});
  run.forward();
  // [snippet:stats_loads]
  stats::Loads const loads = stats::loads(exec, layer, tape); // of the last forward pass; fences
  REQUIRE(loads.rows == std::vector<kokomo::offset_t>{3, 1, 0});
  REQUIRE(loads.max_violation() == Approx(3 / (4.0 / 3) - 1)); // MaxVio
  REQUIRE((loads.dead() == 1 && loads.dropped_share() == 0 && loads.experts_per_token() == 1));
  // [/snippet]
  // [snippet:stats_choices]
  stats::Choices const choices = stats::choices(exec, layer.saved(tape).assignment);
  auto const together = stats::coactivation(choices);             // [E][E]: tokens that had both experts
  auto const frequency = stats::activation_frequency(choices, 2); // per sequence of two tokens, then the mean
  REQUIRE(together[0][0] == 3);
  REQUIRE(frequency == std::vector<double>{0.75, 0.25, 0});
  // [/snippet]
  // [snippet:stats_uncertainty]
  auto const saved = layer.saved(tape);
  double const unsure = stats::uncertainty(exec, saved.logits, saved.assignment);
  REQUIRE(unsure == Approx(std::log(2 + std::exp(1)) - 1)); // the chosen logit is 1, the others are 0
  auto const layers = stats::adapted_layers({unsure, 0.2, 1.1}, /*share*/ 0.5, stats::AdaptedLayers::most_uncertain);
  REQUIRE(layers == std::vector<std::size_t>{0, 2});
  // [/snippet]
  auto const english = choices, spanish = choices;
  // [snippet:stats_divergence]
  auto const p = stats::weight_distribution(english), q = stats::weight_distribution(spanish); // two sets of tokens
  double const bits = stats::jensen_shannon(p, q);                                             // 0 .. 1
  double const share = stats::jensen_shannon(p, q, stats::DivergenceNormalizer::mean_entropy);
  REQUIRE((bits == 0 && share == 0));
  // [/snippet]
  // [snippet:stats_history]
  stats::History history({"block 0"}); // names of the layers
  for (std::uint64_t step = 0; step < 10; ++step) {
    run.forward(); // a step of training
    history.add(step, 0, stats::loads(exec, layer, tape));
  }
  std::string const json = history.json();
  std::string const loads_svg = history.load_picture("Load of the experts"),
                    balance_svg = history.balance_picture("Balance");
  // [/snippet]
  REQUIRE((json.size() > 100 && loads_svg.size() > 100 && balance_svg.size() > 100));
}
