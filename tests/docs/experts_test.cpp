// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/experts/activation.hpp>
#include <kokomo/experts/feed_forward.hpp>
#include <kokomo/experts/packed.hpp>
#include <kokomo/experts/quantized.hpp>
#include <kokomo/experts/row_norm.hpp>
#include <kokomo/experts/with_identity.hpp>
#include <kokomo/experts/with_shared.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/router/top_k.hpp>

TEST_CASE("activation") {
  // [snippet:activation]
  kokomo::SwiGlu const swiglu; // silu(gate) * up
  kokomo::ClampedSwiGlu const gpt_oss{.alpha = 1.702f, .gate_max = 7, .up_limit = 7, .up_offset = 1};
  REQUIRE(swiglu.value<double>(2.0, 3.0) == Approx(2 * example::sigmoid(2) * 3));
  REQUIRE(gpt_oss.value<double>(9.0, -20.0) == Approx(7 * example::sigmoid(1.702f * 7.0) * (-7 + 1)));

  double d_gate = 0, d_up = 0; // gradients of the two projections, for gradient 1 of the hidden layer
  gpt_oss.gradient(9.0, -20.0, 1.0, d_gate, d_up);
  REQUIRE((d_gate == 0 && d_up == 0)); // beyond the clamps
  gpt_oss.gradient(-20.0, 0.0, 1.0, d_gate, d_up);
  REQUIRE(d_gate != 0); // the gate has no lower bound
  // [/snippet]
}

TEST_CASE("feed_forward") {
  // [snippet:feed_forward]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, kokomo::SwiGluExperts>;
  Example<Layer> run({.tokens = 1, .hidden = 1, .experts = 1},
                     {.experts = {.intermediate = 2, .gate_up = kokomo::GateUp::interleaved}});
  auto const& w = run.parameters.experts; // gate_up [1, 4, 1]: gate, up, gate, up; down [1, 1, 2]
  for (int i = 0; i < 4; ++i) example::set(w.gate_up, i + 1, 0, i, 0); // gates 1 and 3, ups 2 and 4
  example::set(w.down, 5, 0, 0, 0), example::set(w.down, 6, 0, 0, 1);
  run.set_x({{1}});
  run.forward();
  auto const silu = [](double v) { return v * example::sigmoid(v); };
  REQUIRE(run.output()[0][0] == Approx(5 * silu(1) * 2 + 6 * silu(3) * 4));
  // [/snippet]
}

TEST_CASE("with_shared") {
  // [snippet:with_shared]
  using Linear = kokomo::FeedForwardExperts<kokomo::Plain<kokomo::Identity>>; // down (up x), to count by hand
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, kokomo::WithShared<Linear, kokomo::SigmoidShare>>;
  Example<Layer> run({.tokens = 1, .hidden = 1, .experts = 1},
                     {.experts = {.routed = {.intermediate = 1}, .shared = {.intermediate = 1}}});
  Kokkos::deep_copy(run.parameters.experts.up, 2), Kokkos::deep_copy(run.parameters.experts.down, 1);
  Kokkos::deep_copy(run.parameters.shared.experts.up, 3), Kokkos::deep_copy(run.parameters.shared.experts.down, 1);
  Kokkos::deep_copy(run.parameters.shared.share.gate, 0); // sigmoid(0 x) = 1/2
  run.set_x({{4}});
  run.forward();
  REQUIRE(run.output()[0][0] == Approx(2 * 4 + 0.5 * 3 * 4));
  // [/snippet]
}

TEST_CASE("with_identity") {
  // [snippet:with_identity]
  using Experts = kokomo::WithIdentity<kokomo::SwiGluExperts>;
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, Experts>;
  // Experts 0 and 1 have weights, 2 returns its input, 3 returns nothing: 4 logits.
  Example<Layer> run({.tokens = 2, .hidden = 4, .experts = 2},
                     {.experts = {.inner = {.intermediate = 8}, .identity = 1, .zero = 1}});
  run.set_logits({{1, 0, 2, 0}, {1, 0, 0, 2}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{2}, {3}});
  REQUIRE(close(run.output(), {{1, 0, 2, 0}, {0, 0, 0, 0}}));
  REQUIRE(run.parameters.experts.down.extent(0) == 2); // no weights for the other two
  // [/snippet]
}

TEST_CASE("packed") {
  // [snippet:packed]
  using Host = Kokkos::DefaultHostExecutionSpace;
  using Weights = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate,
                                kokomo::NoBalancer, kokomo::SwiGluExperts, float, Host>;
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, kokomo::Packed<kokomo::SwiGluExperts>, float, Host>;
  Example<Weights> from({.tokens = 2, .hidden = 6, .experts = 3}, {.experts = {.intermediate = 5}}); // as loaded
  Example<Layer> run({.tokens = 2, .hidden = 6, .experts = 3}, {.experts = {.inner = {.intermediate = 5}}});
  run.parameters.router = from.parameters.router; // shared, not copied
  Kokkos::deep_copy(run.x, from.x);
  run.layer.policies().experts.pack<float>(run.exec, from.parameters.experts, run.parameters.experts);
  from.forward();
  run.forward();
  REQUIRE(run.output() == from.output()); // the same bits
  // [/snippet]
  // Experts without backward want no memory for gradients: not the rows' gradients, which only others spare themselves.
  kokomo::Shape const large{.tokens = 512, .hidden = 64, .experts = 4};
  auto const training = Weights(large, {.experts = {.intermediate = 8}}).plan(run.exec);
  auto const inference = Layer(large, {.experts = {.inner = {.intermediate = 8}}}).plan(run.exec);
  REQUIRE(inference.workspace_bytes <= training.workspace_bytes);
}

TEST_CASE("row_norm") {
  // [snippet:row_norm]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>, kokomo::ConstantGate,
                              kokomo::NoBalancer, kokomo::RowNorm<kokomo::SwiGluExperts>>;
  Example<Layer> run({.tokens = 1, .hidden = 6, .experts = 2},
                     {.experts = {.inner = {.intermediate = 8}, .epsilon = 0, .offset = 1}});
  run.forward();
  auto const y = run.output();
  double mean_square = 0;
  for (double const value : y[0]) mean_square += value * value / 6;
  REQUIRE(mean_square == Approx(1)); // scale first, then the norm: unit mean square whatever the scale
  // [/snippet]
}

TEST_CASE("quantized") {
  // [snippet:quantized]
  using Router = kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>;
  using Layer = kokomo::Layer<Router, kokomo::ConstantGate, kokomo::NoBalancer, kokomo::SwiGluExperts>;
  using Quantized = kokomo::Layer<Router, kokomo::ConstantGate, kokomo::NoBalancer,
                                  kokomo::QuantizedExperts<kokomo::SwiGlu, kokomo::Int4>>;
  kokomo::Shape const shape{.tokens = 3, .hidden = 64, .experts = 2};
  Example<Layer> run(shape, {.experts = {.intermediate = 32}});
  Quantized const layer(shape, {.experts = {.intermediate = 32}});

  auto parameters = layer.make_parameters(run.exec);
  parameters.router = run.parameters.router; // the same Views
  layer.policies().experts.quantize(run.exec, run.layer.policies().experts, run.parameters.experts, parameters.experts);

  auto const plan = layer.plan(run.exec);
  kokomo::Workspace<Quantized::Exec> const workspace(run.exec, plan);
  kokomo::Tape<Quantized::Exec> tape(run.exec, plan);
  run.forward(); // in float32
  auto const exact = run.output();
  layer.forward(run.exec, parameters, layer.make_state(run.exec), run.x, run.y, workspace, tape);
  auto const rounded = run.output();
  REQUIRE(rounded != exact);
  double off = 0, size = 0;
  for (std::size_t t = 0; t < 3; ++t)
    for (std::size_t h = 0; h < 64; ++h)
      off += std::pow(rounded[t][h] - exact[t][h], 2), size += std::pow(exact[t][h], 2);
  REQUIRE(std::sqrt(off / size) < 0.2); // three products with weights of 15 levels
  // [/snippet]
}
