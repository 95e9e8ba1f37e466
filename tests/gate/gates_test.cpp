// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/detached.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/gate/straight_through.hpp>

namespace gates_test {

using namespace kokomo;
using namespace kokomo::test;

template <class Gate> Rows weights_of(Gate const& gate, Batch const& batch) {
  auto f = fixture_of(batch);
  f.weigh(gate);
  return f.weights();
}
/// sum of d * w, d by entry
template <class Gate> double along(Gate const& gate, Batch const& batch, Row const& d) {
  auto const w = flat(weights_of(gate, batch));
  double sum = 0;
  for (std::size_t i = 0; i < w.size(); ++i) sum += d[i] * w[i];
  return sum;
}
template <class Gate> Rows gradient(Gate const& gate, Batch const& batch, Row const& d) {
  auto f = fixture_of(batch);
  f.weigh(gate);
  return f.gate_gradient(gate, d);
}
Row entry_gradients(std::size_t entries) {
  return flat(random_logits(1, entries, 77));
}
template <class Gate> void check_gate_gradient(Gate const& gate, Batch const& batch) {
  auto const d = entry_gradients(batch.logits.size() * std::size_t(batch.k));
  auto const differences = logit_differences(batch.logits, [&](Rows const& z) {
    auto moved = batch;
    moved.logits = z;
    return along(gate, moved, d);
  });
  REQUIRE(relative_error(flat(gradient(gate, batch, d)), flat(differences)) <= 1e-8);
}

Batch const batch{.logits = random_logits(7, 5, 12), .k = 3};

TEST_CASE("joint probability: exp of the log probability, the selected mass apart from the renormalised form") {
  auto logits = batch.logits; // log probabilities
  for (auto& z : logits) {
    auto const p = softmax(z);
    for (std::size_t e = 0; e < 5; ++e) z[e] = std::log(p[e]);
  }
  Batch const log{.logits = logits, .k = 3};
  auto const joint = weights_of(JointProbabilityGate{}, log), soft = weights_of(SelectedSoftmaxGate{}, log);
  for (std::size_t t = 0; t < 7; ++t) {
    double mass = 0;
    for (double const w : joint[t]) mass += w;
    REQUIRE(mass < 0.999);
    for (std::size_t j = 0; j < 3; ++j) {
      REQUIRE(joint[t][j] == Approx(softmax(batch.logits[t])[best(batch.logits[t], 3)[j]]).epsilon(1e-13));
      REQUIRE(soft[t][j] == Approx(joint[t][j] / mass).epsilon(1e-13));
    }
  }
  check_gate_gradient(JointProbabilityGate{}, log);
}

TEST_CASE("renormalisation over the experts that chose a token, times a scale: Nucleus-Image") {
  NormalizedSoftmaxGate const gate{.epsilon = 1e-12f, .scale = 2.5f};
  for (auto const& row : weights_of(gate, batch)) REQUIRE(row[0] + row[1] + row[2] == Approx(2.5).epsilon(1e-11));
  check_gate_gradient(gate, batch);
}

TEST_CASE("scores divided by the number of experts that take the token") {
  SoftmaxGate const gate{.normalize = Normalize::count, .scale = 3};
  auto const w = weights_of(gate, batch);
  for (std::size_t t = 0; t < 7; ++t)
    for (std::size_t j = 0; j < 3; ++j)
      REQUIRE(w[t][j] == Approx(softmax(batch.logits[t])[best(batch.logits[t], 3)[j]]).epsilon(1e-13));
  check_gate_gradient(gate, batch);
}

TEST_CASE("GShard: renormalised before dropping a lost expert's mass is gone, after it the rest has all") {
  auto const with_drop = [](Drops drops) {
    auto f = fixture_of({.logits = {{1, 0, -9}}, .k = 2});
    auto const row = to_host(f.assignment.row);
    auto dropped = row;
    dropped[1] = none;
    to_device(dropped, f.assignment.row);
    f.weigh(NormalizedSoftmaxGate{.drops = drops});
    return f.weights()[0][0];
  };
  REQUIRE(with_drop(Drops::keep_share) == Approx(1 / (1 + std::exp(-1.0))).epsilon(1e-13));
  REQUIRE(with_drop(Drops::renormalize) == Approx(1).epsilon(1e-13));
}

TEST_CASE("detached: the same weights, no gradient to the logits, one to the gate's parameters") {
  Detached<NormalizedSigmoidGate> const gate{{.scale = 2}};
  REQUIRE(weights_of(gate, batch) == weights_of(NormalizedSigmoidGate{.scale = 2}, batch));
  REQUIRE(norm(flat(gradient(gate, batch, entry_gradients(21)))) == 0);

  Detached<SoftmaxGate> const scaled{{.expert_scales = true}};
  auto f = fixture_of(batch);
  auto const parameters = f.parameters_of(scaled), grads = f.parameters_of(scaled);
  to_device(Row(5, 1.5), parameters.expert_scale);
  f.weigh(scaled, parameters);
  OwnedVector<double, Exec> d_weight("d_weight", 21);
  to_device(entry_gradients(21), d_weight);
  OwnedMatrix<double, Exec> d_logits("d_logits", 7, 5);
  scaled.backward<double>(f.exec, parameters, f.routing, f.assignment, Vector<double const, Exec>(d_weight),
                          Matrix<double, Exec>(d_logits), grads, Write::overwrite,
                          f.laid_out<backward_scratch_t<SoftmaxGate, double, Exec>>(scaled));
  f.exec.fence();
  REQUIRE(norm(to_host(grads.expert_scale)) > 1e-3);
  REQUIRE(norm(to_host(d_logits)) == 0);
}

template <class Inner> void check_straight_through(Inner const& inner) {
  StraightThrough<Inner> const gate{.inner = inner, .value = 0.5f};
  REQUIRE(weights_of(gate, batch) == Rows(7, Row(3, 0.5)));
  auto const d = entry_gradients(21);
  REQUIRE(relative_error(flat(gradient(gate, batch, d)), flat(gradient(inner, batch, d))) <= 1e-14);
  auto f = fixture_of(batch); // the hard weights are still there afterwards
  f.weigh(gate);
  f.gate_gradient(gate, d);
  REQUIRE(f.weights() == Rows(7, Row(3, 0.5)));
}
TEST_CASE("straight-through: hard weights forward, the soft gate's gradient backward") {
  check_straight_through(SoftmaxGate{});
  check_straight_through(NormalizedSigmoidGate{.scale = 2});
  check_straight_through(SelectedSoftmaxGate{}); // its gradient reads its own weights
}

TEST_CASE("ReMix: constant weights, so the effective support of k experts is k") {
  for (bool const stabilized : {false, true}) {
    auto const gate = remix_gate(3, 8, stabilized);
    auto const w = weights_of(gate, batch);
    REQUIRE(w[0][0] == Approx(2 / (stabilized ? std::sqrt(24.0) : 24.0)).epsilon(1e-7));
    for (auto const& row : w) {
      double sum = 0, squares = 0;
      for (double const v : row) sum += v, squares += v * v;
      REQUIRE(sum * sum / squares == Approx(3).epsilon(1e-12));
    }
  }
  REQUIRE_THROWS_AS(remix_gate(0, 8), Error);
}

} // namespace gates_test
