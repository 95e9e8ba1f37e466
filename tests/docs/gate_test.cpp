// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/experts/with_shared.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/joint.hpp>
#include <kokomo/gate/on_input.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/gate/sparse_mixer.hpp>
#include <kokomo/router/top_k.hpp>

TEST_CASE("score_gate") {
  // [snippet:score_gate]
  using Gate = kokomo::ScoreGate<kokomo::SigmoidScore, kokomo::Normalize::sum_plus_epsilon>; // NormalizedSigmoidGate
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<2>>, Gate>;
  Example<Layer> run({.tokens = 1, .hidden = 3, .experts = 3},
                     {.gate = {.scale = 2.5f}, .experts = {.intermediate = 4}});
  run.set_logits({{1, -1, 0}});
  run.forward();
  double const s0 = example::sigmoid(1), s2 = example::sigmoid(0);
  REQUIRE(close(run.weights(), {{2.5 * s0 / (s0 + s2), 2.5 * s2 / (s0 + s2)}}));
  // [/snippet]
}

TEST_CASE("selected_softmax") {
  // [snippet:selected_softmax]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<2>>, kokomo::SelectedSoftmaxGate>;
  Example<Layer> run({.tokens = 1, .hidden = 4, .experts = 4}, {.experts = {.intermediate = 4}});
  run.set_logits({{1, 3, 2, 2.5}});
  run.forward(); // experts 1 and 3; the other logits do not enter
  double const w = 1 / (1 + std::exp(2.5 - 3));
  REQUIRE(close(run.weights(), {{w, 1 - w}}));
  // [/snippet]
}

TEST_CASE("constant") {
  // [snippet:constant]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<2>>, kokomo::ConstantGate>;
  Example<Layer> run({.tokens = 2, .hidden = 4, .experts = 4},
                     {.gate = {.value = 0.5f}, .experts = {.intermediate = 4}});
  run.forward();
  REQUIRE(close(run.weights(), {{0.5, 0.5}, {0.5, 0.5}}));
  run.layer.backward(run.exec, run.parameters, run.state, run.x, run.dy, run.dx, run.gradients, run.workspace,
                     run.tape);
  run.exec.fence();
  REQUIRE(host(run.gradients.router.weight)(0, 0) == 0); // the router learns nothing
  // [/snippet]
}

TEST_CASE("joint") {
  // [snippet:joint]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<2>>, kokomo::JointSigmoidGate,
                              kokomo::NoBalancer, kokomo::WithShared<kokomo::SwiGluExperts, kokomo::JointShare>>;
  Example<Layer> run({.tokens = 1, .hidden = 5, .experts = 4}, // 4 routed experts and 1 shared: 5 logits
                     {.gate = {.scale = 3}, .experts = {.routed = {.intermediate = 4}, .shared = {.intermediate = 4}}});
  example::set(run.parameters.gate.global_scale, 1, 0);
  run.set_logits({{2, 1, -1, 0, 1}}); // the shared expert's logit is the last
  run.forward();
  double const sum = example::sigmoid(2) + example::sigmoid(1) + example::sigmoid(1); // experts 0, 1 and the shared
  REQUIRE(close(run.weights(), {{3 * example::sigmoid(2) / sum, 3 * example::sigmoid(1) / sum}}));
  auto const shared = host(run.layer.saved(run.tape).gate.shared_weight);
  REQUIRE(shared(0, 0) == Approx(3 * example::sigmoid(1) / sum));
  // [/snippet]
}

TEST_CASE("on_input") {
  // [snippet:on_input]
  using Router = kokomo::Router<kokomo::LinearScorer, kokomo::TopK<1>>;
  using OnOutput = kokomo::Layer<Router, kokomo::ConstantGate, kokomo::NoBalancer, kokomo::SquaredReluExperts>;
  using OnInput =
      kokomo::Layer<Router, kokomo::OnInput<kokomo::ConstantGate>, kokomo::NoBalancer, kokomo::SquaredReluExperts>;
  kokomo::Shape const shape{.tokens = 1, .hidden = 4, .experts = 2};
  Example<OnOutput> output(shape, {.gate = {.value = 3}, .experts = {.intermediate = 8}}); // 3 expert(x)
  Example<OnInput> input(shape, {.gate = {{.value = 3}}, .experts = {.intermediate = 8}}); // expert(3 x)
  output.forward(), input.forward();
  // Squared ReLU is homogeneous of degree 2: expert(3 x) = 9 expert(x).
  REQUIRE(input.output()[0][0] != 0);
  REQUIRE(input.output()[0][0] == Approx(3 * output.output()[0][0]));
  // [/snippet]
}

TEST_CASE("sparse_mixer gate") {
  // [snippet:sparse_mixer]
  using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::SparseMixer>, kokomo::SparseMixerGate>;
  Example<Layer> run({.tokens = 2, .hidden = 3, .experts = 3}, {.experts = {.intermediate = 4}}); // epsilon 0.01
  run.set_logits({{3, 2, 1},      // each pick sees one expert alone: both weights are 1
                  {3, 2.99, 1}}); // the first pick sees two
  run.forward();
  REQUIRE(close(run.weights(), {{1, 1}, {example::sigmoid(0.01), 1}}));
  // [/snippet]
}
