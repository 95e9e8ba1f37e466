// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/balanced_training.hpp>

namespace {

/// Adds what another process counted, in place of an all-reduce.
struct AddCounts {
  using Exec = Kokkos::DefaultExecutionSpace;
  kokomo::OwnedMatrix<kokomo::offset_t, Exec> other;

  struct Add {
    kokomo::offset_t const* from;
    kokomo::offset_t* to;
    KOKKOS_FUNCTION void operator()(int i) const { to[i] += from[i]; }
  };
  void operator()(Exec const& exec, kokomo::Matrix<kokomo::offset_t, Exec> const& counts) const {
    Kokkos::parallel_for("AddCounts", Kokkos::RangePolicy<Exec>(exec, 0, int(counts.size())),
                         Add{other.data(), counts.data()});
  }
};

} // namespace

TEST_CASE("sim_bal") {
  // [snippet:sim_bal]
  using Layer = kokomo::models::SimBal<kokomo::models::Mixtral<>>;
  static_assert(std::is_same_v<Layer, kokomo::models::WithBalancer<kokomo::models::Mixtral<>, Layer::Balancer>>);
  Example<Layer> run(
      {.tokens = 2, .hidden = 2, .experts = 2},
      {.router = {.selector = {.k = 1}}, .balancer = {.coefficient = 0.1f}, .experts = {.intermediate = 4}});
  run.set_logits({{2, 1}, {5, 0}}); // the router's weight becomes the identity
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0}, {0}});
  REQUIRE(run.loss() == Approx(0).margin(1e-7)); // rows are orthonormal, whatever the load is
  example::set(run.parameters.router.weight, 2, 0, 0);
  run.forward(kokomo::Mode::training);
  REQUIRE(run.loss() == Approx(0.1 * (2 * 2 - 1))); // Gram [[4, 0], [0, 1]]
  // [/snippet]
}

TEST_CASE("coupled") {
  // [snippet:coupled]
  using Layer = kokomo::models::Coupled<kokomo::models::Mixtral<>>;
  Example<Layer> run({.tokens = 1, .hidden = 2, .experts = 2}, {.router = {.selector = {.k = 1}},
                                                                .balancer = {.coefficient = 0.1f, .alpha = 0.5f},
                                                                .experts = {.intermediate = 1}});
  run.set_logits({{1, 2}}); // router rows (1, 0) and (0, 1)
  auto const looks_at = [&](int expert, int coordinate) {
    for (int h : {0, 1}) example::set(run.parameters.experts.gate_up, h == coordinate, expert, 0, h); // W_gate
  };
  looks_at(0, 0), looks_at(1, 1);
  run.forward();            // no noise in inference
  REQUIRE(run.loss() == 0); // M is the identity
  looks_at(0, 1);           // as expert 1 does: M = [[0, 0], [1, 1]]
  run.forward();            // M_10 - M_11 / 2, M_10 - M_00 / 2; the other two are not above 0
  REQUIRE(run.loss() == Approx(0.1 / 4 * (0.5 + 1)));
  // [/snippet]
}

TEST_CASE("global_batch") {
  // [snippet:global_batch]
  AddCounts const reduce{kokomo::OwnedMatrix<kokomo::offset_t, Kokkos::DefaultExecutionSpace>("other", 1, 3)};
  using Layer = kokomo::models::GlobalBatch<kokomo::models::Mixtral<>, AddCounts>;
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2},
                     {.router = {.selector = {.k = 1}},
                      .balancer = kokomo::global_batch_loss(/*coefficient*/ 1, /*k*/ 1, reduce),
                      .experts = {.intermediate = 4}});
  run.set_logits({{40, 0}, {40, 0}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.loss() == Approx(2));    // E f_0 P_0 = 2 * 1 * 1: this batch alone has collapsed
  example::set(reduce.other, 2, 0, 1); // another process sent its two tokens to expert 1,
  example::set(reduce.other, 2, 0, 2); // and counted two tokens
  run.forward(kokomo::Mode::training);
  REQUIRE(run.loss() == Approx(1)); // f = (1/2, 1/2), P = (1, 0): no more than balance costs
  // [/snippet]
}

TEST_CASE("mixtral_training") {
  // [snippet:mixtral_training]
  using Layer = kokomo::models::MixtralTraining<>;
  Example<Layer> run({.tokens = 2, .hidden = 4, .experts = 4},
                     {.router = {.selector = {.k = 2}},
                      .gate = {.normalize = kokomo::Normalize::sum},
                      .balancer = kokomo::transformers_loss(/*coefficient*/ 0.01f, /*k*/ 2),
                      .experts = {.intermediate = 4}});
  auto const l = [](double p) { return std::log(p); };
  run.set_logits({{l(0.4), l(0.3), l(0.2), l(0.1)}, {l(0.1), l(0.2), l(0.3), l(0.4)}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1}, {3, 2}});
  REQUIRE(close(run.weights(), {{0.4 / 0.7, 0.3 / 0.7}, {0.4 / 0.7, 0.3 / 0.7}}));
  REQUIRE(run.loss() == Approx(0.01 * 2)); // balanced: coefficient * k
  run.set_x({{l(0.4), l(0.3), l(0.2), l(0.1)}, {l(0.4), l(0.3), l(0.2), l(0.1)}});
  run.forward(kokomo::Mode::training);
  REQUIRE(run.loss() == Approx(0.01 * 4 * (1 * 0.4 + 1 * 0.3))); // E sum of f P
  // [/snippet]
}

TEST_CASE("longcat_flash_training") {
  // [snippet:longcat_flash_training]
  // Four experts with weights, two without; three picks a token, of which two shall have weights.
  using Layer = kokomo::models::LongcatFlashTraining<float>;
  auto const balance = kokomo::models::longcat_balance(/*rate*/ 0.1f, /*coefficient*/ 1e-2f, /*real_picks*/ 2, 3, 2);
  Example<Layer> run({.tokens = 4, .hidden = 6, .experts = 4},
                     {.router = {.selector = {.k = 3}},
                      .gate = {.scale = 6},
                      .balancer = balance,
                      .experts = {.inner = {.intermediate = 4}, .identity = 2}});
  run.set_logits({{3, 2, 1, 0, 0, 0}, {3, 2, 1, 0, 0, 0}, {3, 2, 1, 0, 0, 0}, {3, 2, 1, 0, 0, 0}});
  run.forward(kokomo::Mode::training);
  double const sum = std::exp(3) + std::exp(2) + std::exp(1) + 3;
  REQUIRE(run.weights()[0][0] == Approx(6 * std::exp(3) / sum)); // a softmax over all six, times scale
  // Each token visits both devices and no expert without weights: f = 1, 1, 0.
  REQUIRE(run.loss() == Approx(1e-2 * (1 - 2 / sum)));
  run.layer.step(run.exec, run.state); // all picks have weights: on the whole their biases fall
  auto const bias = host(std::get<0>(run.state.balancer.parts).bias);
  REQUIRE(bias(0) + bias(1) + bias(2) + bias(3) == Approx(0.1 * (2.0 / 3 - 1)));
  REQUIRE((bias(4) == 0 && bias(5) == 0));
  // [/snippet]
}
