// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/experts/feed_forward.hpp>

namespace feed_forward_test {

using namespace kokomo;
using namespace kokomo::test;

template <class Experts, class T>
using Subject = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, Experts, T, Exec>;

template <class Experts, class T> typename Subject<Experts, T>::Policies settings(Experts const& experts, int k = 2) {
  return {.router = {.selector = {.k = k}}, .experts = experts};
}

/// Every storage of the weights, with and without biases.
template <class Experts> std::vector<Experts> layouts(offset_t intermediate) {
  std::vector<Experts> all;
  for (auto const gate_up : {GateUp::concatenated, GateUp::interleaved, GateUp::separate})
    for (auto const up : {WeightOrder::out_in, WeightOrder::in_out})
      for (auto const down : {WeightOrder::out_in, WeightOrder::in_out})
        for (bool const bias : {false, true})
          all.push_back(
              {.intermediate = intermediate, .bias = bias, .gate_up = gate_up, .up_order = up, .down_order = down});
  return all;
}

template <class Experts> void check_layouts(std::vector<Experts> const& all) {
  for (auto const& experts : all) {
    INFO("gate_up " << int(experts.gate_up) << ", up " << int(experts.up_order) << ", down " << int(experts.down_order)
                    << ", bias " << experts.bias);
    check_shapes<Subject<Experts, double>>(
        {{.tokens = 1, .hidden = 1, .experts = 2}, {.tokens = 29, .hidden = 7, .experts = 3}},
        [&](Shape const&) { return settings<Experts, double>(experts); });
    Fixture<Subject<Experts, double>> fixture({.tokens = 5, .hidden = 3, .experts = 3},
                                              settings<Experts, double>(experts));
    check_gradients(fixture);
  }
}

TEST_CASE("gated experts: forward and gradients in every layout") {
  check_layouts(layouts<SwiGluExperts>(5));
}

TEST_CASE("plain experts: forward and gradients in every layout") {
  auto all = layouts<AnyPlainExperts>(5);
  all.resize(8); // gate_up does not matter to plain experts
  for (auto& experts : all) experts.activation.act.kind = ActivationKind::gelu;
  check_layouts(all);
}

TEST_CASE("gated experts of float32 layers in every layout") {
  for (auto const& experts : layouts<SwiGluExperts>(17))
    check_shapes<Subject<SwiGluExperts, float>>({{.tokens = 70, .hidden = 33, .experts = 5}}, [&](Shape const&) {
      return settings<SwiGluExperts, float>(experts, 3);
    });
}

TEST_CASE("an expert that nobody chose gets a gradient of zero, and keeps what it had with Write::add") {
  Fixture<Subject<SwiGluExperts, double>> fixture({.tokens = 6, .hidden = 3, .experts = 4},
                                                  settings<SwiGluExperts, double>({.intermediate = 2}, 1));
  to_device(std::vector<double>(12, 0.0), fixture.parameters.router.weight); // all choose expert 0
  fixture.forward();
  fixture.backward();
  auto const gate_up = to_host(fixture.gradients.experts.gate_up), down = to_host(fixture.gradients.experts.down);
  REQUIRE(norm({gate_up.begin(), gate_up.begin() + 12}) > 0);
  REQUIRE(norm({gate_up.begin() + 12, gate_up.end()}) == 0);
  REQUIRE(norm({down.begin() + 6, down.end()}) == 0);

  to_device(std::vector<double>(gate_up.size(), 3.0), fixture.gradients.experts.gate_up);
  fixture.forward();
  fixture.backward(Write::add);
  auto const added = to_host(fixture.gradients.experts.gate_up);
  REQUIRE(std::vector<double>(added.begin() + 12, added.end()) == std::vector<double>(gate_up.size() - 12, 3.0));
}

TEST_CASE("any activation at run time: forward and gradients") {
  for (auto const kind : {ActivationKind::silu, ActivationKind::gelu, ActivationKind::gelu_tanh, ActivationKind::relu,
                          ActivationKind::squared_relu, ActivationKind::identity}) {
    INFO(int(kind));
    Fixture<Subject<AnyPlainExperts, double>> fixture(
        {.tokens = 5, .hidden = 3, .experts = 3},
        settings<AnyPlainExperts, double>({.intermediate = 4, .activation = {{kind}}}));
    check_forward(fixture);
    check_gradients(fixture);
  }
}

TEST_CASE("GPT-OSS's experts: clamps, offset, biases, interleaved in_out") {
  ClampedSwiGluExperts const experts{
      .intermediate = 4,
      .bias = true,
      .gate_up = GateUp::interleaved,
      .up_order = WeightOrder::in_out,
      .down_order = WeightOrder::in_out,
      .activation = {.alpha = 1.702f, .gate_max = 0.5f, .up_limit = 0.75f, .up_offset = 1}};
  Fixture<Subject<ClampedSwiGluExperts, double>> fixture({.tokens = 9, .hidden = 4, .experts = 3},
                                                         settings<ClampedSwiGluExperts, double>(experts));
  check_forward(fixture);
  check_gradients(fixture);
}

} // namespace feed_forward_test
