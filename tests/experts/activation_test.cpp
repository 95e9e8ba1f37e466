// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>
#include <support/describe.hpp>

#include <kokomo/experts/activation.hpp>

namespace activation_test {

using namespace kokomo;
using namespace kokomo::test;

/// Away from the kinks: no value is within a step of 0, of the clamps' bounds 0.75 and 1.25, or of where
/// x sigmoid(alpha x) crosses them.
std::vector<double> const points{-30, -4.1, -1.3, -1.2, -0.8, -0.31, -0.02, 0.017, 0.4, 0.7, 0.81, 1.1, 1.31, 2.7, 25};

/// Central difference with h = 1e-5: 1e-10 for truncation and 1e-16 / 1e-5 for rounding, relative to values near 1.
template <class F> double difference(F const& f, double at) {
  return (f(at + 1e-5) - f(at - 1e-5)) / 2e-5;
}

template <class Act> void check_function(Act const& act) {
  for (double const x : points) {
    INFO(x);
    CHECK(act.value(x) == Approx(describe(act, x)).epsilon(1e-14).margin(1e-15));
    // float: exp and tanh of arguments below 30, each with a few half units in the last place
    CHECK(act.value(float(x)) == Approx(describe(act, double(float(x)))).epsilon(3e-6).margin(1e-6));
    double const slope = difference([&](double v) { return act.value(v); }, x);
    CHECK(act.slope(x) == Approx(slope).epsilon(1e-8).margin(1e-8));
  }
}

template <class Activation> void check_pair(Activation const& act) {
  for (double const gate : points)
    for (double const up : points) {
      INFO(gate << ", " << up);
      CHECK(act.template value<double>(gate, up) == Approx(describe(act, gate, up)).epsilon(1e-13).margin(1e-14));
      double const da = 1.5;
      double d_gate = 0, d_up = 0;
      act.gradient(gate, up, da, d_gate, d_up);
      double const by_gate = da * difference([&](double v) { return act.template value<double>(v, up); }, gate);
      double const by_up = da * difference([&](double v) { return act.template value<double>(gate, v); }, up);
      CHECK(d_gate == Approx(by_gate).epsilon(1e-7).margin(1e-7)); // values up to 30 * 30
      CHECK(d_up == Approx(by_up).epsilon(1e-7).margin(1e-7));
    }
}

TEST_CASE("activations and their slopes equal their formulas") {
  check_function(Silu{});
  check_function(Gelu{});
  check_function(GeluTanh{});
  check_function(Relu{});
  check_function(SquaredRelu{});
  check_function(Identity{});
  for (auto const kind : {ActivationKind::silu, ActivationKind::gelu, ActivationKind::gelu_tanh, ActivationKind::relu,
                          ActivationKind::squared_relu, ActivationKind::identity})
    check_function(AnyActivation{kind});
}

TEST_CASE("gated and plain hidden layers and their gradients equal their formulas") {
  check_pair(SwiGlu{});
  check_pair(GeGlu{});
  check_pair(GeGluTanh{});
  check_pair(ReGlu{});
  check_pair(Plain<Silu>{});
  check_pair(Plain<SquaredRelu>{});
  check_pair(Glu<AnyActivation>{{ActivationKind::squared_relu}});
  check_pair(SoftcappedSwiGlu{.gate_cap = 1.5f, .up_cap = 0.75f});
}

TEST_CASE("clamped SwiGLU and its gradients equal their formulas") {
  check_pair(ClampedSwiGlu{});
  for (auto const clamp : {Clamp::before_activation, Clamp::after_activation}) {
    check_pair(ClampedSwiGlu{.gate_max = 0.75f, .up_limit = 1.25f, .clamp = clamp});
    check_pair(ClampedSwiGlu{.alpha = 1.702f, .gate_max = 0.75f, .up_limit = 1.25f, .up_offset = 1, .clamp = clamp});
  }
}

TEST_CASE("clamped SwiGLU passes the gradient strictly within its bounds, and has no lower bound for the gate") {
  ClampedSwiGlu const act{.gate_max = 0.75f, .up_limit = 1.25f};
  double d_gate = 1, d_up = 1;
  act.gradient(0.75, 1.25, 1.0, d_gate, d_up); // reference files of GPT-OSS in bfloat16 have such a value: no gradient
  REQUIRE(d_gate == 0);
  REQUIRE(d_up == 0);
  act.gradient(0.75, -1.25, 1.0, d_gate, d_up);
  REQUIRE(d_up == 0);
  act.gradient(0.75 - 1e-9, 1.25 - 1e-9, 1.0, d_gate, d_up);
  REQUIRE(d_gate > 0);
  REQUIRE(d_up > 0);
  act.gradient(-9.0, 1.0, 1.0, d_gate, d_up);
  REQUIRE(d_gate != 0);
  REQUIRE(act.value<double>(-9.0, 1.0) == Approx(describe(Silu{}, -9.0)));
}

TEST_CASE("GPT-OSS: up = 0 leaves the gated linear unit alone") {
  ClampedSwiGlu const act{.alpha = 1.702f, .gate_max = 7, .up_limit = 7, .up_offset = 1};
  REQUIRE(act.value<double>(0.5, 0.0) == Approx(0.5 * reference::sigmoid(1.702f * 0.5)).epsilon(1e-14));
  REQUIRE(act.value<double>(100.0, 100.0) ==
          Approx(7 * reference::sigmoid(7 * double(1.702f)) * 8).epsilon(1e-14)); // saturated
}

TEST_CASE("large arguments stay finite") {
  for (float const x : {-1e30f, -1e4f, 1e4f}) {
    CHECK(std::isfinite(Silu{}.value(x)));
    CHECK(std::isfinite(Silu{}.slope(x)));
    CHECK(std::isfinite(Gelu{}.value(x)));
    CHECK(std::isfinite(Gelu{}.slope(x)));
  }
  for (float const x : {-1e4f, 1e4f}) {
    CHECK(std::isfinite(GeluTanh{}.value(x)));
    CHECK(std::isfinite(GeluTanh{}.slope(x)));
  }
}

} // namespace activation_test
