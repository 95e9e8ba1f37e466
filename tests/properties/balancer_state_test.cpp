// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/adaptive_l1.hpp>
#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/bip_balancing.hpp>
#include <kokomo/balancer/coverage_then_confidence.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/balancer/z_loss.hpp>

#include <map>

/// What a balancer remembers is in its state by name: whoever saves and loads it goes on bit by bit.

namespace balancer_state_test {

using namespace kokomo;
using namespace kokomo::test;

template <class Balancer> struct Trained {
  Balancer balancer;
  RoutingFixture<> f{random_logits(20, 6)};
  state_t<Balancer, double, Exec> state = f.state_of(balancer);
  double loss = 0;

  explicit Trained(Balancer const& b) : balancer(b) { f.routing.mode = Mode::training; }
  void pass(unsigned seed) {
    to_device(flat(random_logits(20, 6, seed)), f.logits);
    if constexpr (detail::BiasesSelection<Balancer, double, Exec>)
      f.bias = to_owned(balancer.template bias<double, Exec>(state));
    f.select<SoftmaxScore>(TopK<>{.k = 2});
    auto const saved = f.saved_of(balancer);
    if constexpr (detail::PreparesSelection<Balancer, SoftmaxScore, double, Exec>)
      balancer.template prepare<SoftmaxScore, double>(f.exec, f.routing, state, saved);
    if constexpr (detail::ObservesRouting<Balancer, double, Exec>) loss = f.observe(balancer, state, saved);
    f.exec.fence();
  }
  void step() {
    if constexpr (detail::Steps<Balancer, double, Exec>) balancer.template step<double>(f.exec, state);
    f.exec.fence();
  }
  std::map<std::string, Row> values() const {
    std::map<std::string, Row> by_name;
    for (auto const& [name, tensor] : policy_tensors(state)) by_name[name] = tensor.read();
    return by_name;
  }

private:
  static OwnedVector<double, Exec> to_owned(Vector<double const, Exec> const& bias) {
    OwnedVector<double, Exec> copy("bias", bias.extent(0));
    Kokkos::deep_copy(copy, bias);
    return copy;
  }
};

template <class Balancer> void check(Balancer const& balancer) {
  Trained<Balancer> one(balancer), loaded(balancer);
  auto const fresh = one.values();
  for (unsigned n = 1; n <= 4; ++n) one.pass(n), one.step();
  one.pass(5); // counted, but not yet stepped on
  REQUIRE(one.values() != fresh);
  auto const saved = one.values();
  for (auto const& [name, tensor] : policy_tensors(loaded.state)) tensor.write(saved.at(name));
  for (unsigned n = 6; n <= 8; ++n) {
    one.step(), loaded.step();
    REQUIRE(loaded.values() == one.values());
    one.pass(n), loaded.pass(n);
    REQUIRE(loaded.loss == one.loss);
    REQUIRE(loaded.f.chosen() == one.f.chosen());
  }
  REQUIRE(loaded.values() == one.values());
}

TEST_CASE("states of balancers, saved and loaded by name, go on bit by bit") {
  check(SelectionBias{.rate = 0.1f});
  check(SelectionBias{
      .rate = 0.1f, .update = BiasUpdate::clipped, .schedule = BiasSchedule::inverse_sqrt, .recenter = true});
  check(AdaptiveL1{.target = 1, .initial = 0.5f});
  check(BipBalancing{});
  check(BipBalancing{.update = DualUpdate::after_selection});
  check(CoverageThenConfidence{});
  check(Balancers<ZLoss, SelectionBias>{{{.coefficient = 0.1f}, {.rate = 0.1f}}});
}

} // namespace balancer_state_test
