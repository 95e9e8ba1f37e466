// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/differences.hpp>
#include <properties/machine_of.hpp>
#include <properties/own_softplus_gate.hpp>
#include <properties/own_threshold.hpp>

#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/capacity/capacity.hpp>

/// Policies from outside of the library, with a number of experts that varies from token to token.

using namespace properties;

namespace {

using Own = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, own::Threshold>, own::SoftplusGate,
                          kokomo::SelectionBias, kokomo::SwiGluExperts, double>;
using OwnWithCapacity =
    kokomo::Layer<kokomo::Router<kokomo::LinearScorer, own::Threshold>, own::SoftplusGate, kokomo::SelectionBias,
                  kokomo::SwiGluExperts, float, Kokkos::DefaultExecutionSpace, kokomo::Capacity>;
using EveryExpert = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, own::SoftplusGate,
                                  kokomo::NoBalancer, kokomo::SwiGluExperts, double>;

template <class LayerT> typename LayerT::Policies policies(float threshold) {
  typename LayerT::Policies policies;
  if constexpr (requires { policies.router.selector.threshold; }) policies.router.selector.threshold = threshold;
  policies.experts.intermediate = 9;
  return policies;
}

} // namespace

TEST_CASE("a selector and a gate of one file each: any number of experts a token, none too") {
  auto const machine = make_machine<Own>({}, policies<Own>(0.65f));
  machine->state.at("balancer.bias").values[3] = 0.125;
  auto batch = random_batch(*machine, 40);
  batch.mode = kokomo::Mode::training;
  auto const result = machine->run(batch);
  check_assignment(result, 40, machine->sizes());

  std::map<std::size_t, int> tokens_with;
  for (std::size_t t = 0; t < 40; ++t) {
    std::vector<index_t> expected;
    for (index_t e = 0; e < 8; ++e) {
      double const z = result.logits[8 * t + std::size_t(e)];
      if (1 / (1 + std::exp(-z)) + (e == 3 ? 0.125 : 0) > 0.65f) expected.push_back(e);
    }
    REQUIRE(choices(result, t) == expected);
    for (std::size_t j = 0; j < expected.size(); ++j)
      REQUIRE(weights(result, t)[j] == Approx(std::log1p(std::exp(result.logits[8 * t + std::size_t(expected[j])]))));
    if (expected.empty())
      for (double v : rows_of(result.y, {t}, 12)) REQUIRE(v == 0);
    ++tokens_with[expected.size()];
  }
  REQUIRE(tokens_with[0] > 0);
  REQUIRE(tokens_with.size() > 3);
  double counted = 0;
  for (double count : machine->state.at("balancer.counts").values) counted += count;
  REQUIRE(counted == double(result.token_offsets.back()));
}

TEST_CASE("their gradients are slopes, masked tokens and tokens without experts included") {
  auto const machine = make_machine<Own>({}, policies<Own>(0.65f));
  auto batch = random_batch(*machine, 21);
  check_gradients(*machine, batch);
  batch.mask.assign(21, 1);
  batch.mask[0] = batch.mask[9] = batch.mask[20] = 0;
  check_gradients(*machine, batch);
}

TEST_CASE("a threshold below every score is top-k with k = experts") {
  auto const machine = make_machine<Own>({}, policies<Own>(-1));
  auto settings = policies<EveryExpert>(0);
  settings.router.selector.k = 8;
  auto const all = make_machine<EveryExpert>({}, settings);
  auto const batch = random_batch(*machine, 30);
  auto const a = machine->run(batch, Pass::forward_and_backward), b = all->run(batch, Pass::forward_and_backward);
  // the same eight terms a sum in another order, in float64
  REQUIRE(relative_error(a.y, b.y) < 1e-14);
  REQUIRE(relative_error(a.dx, b.dx) < 1e-14);
}

TEST_CASE("a threshold above every score routes nobody anywhere") {
  auto const machine = make_machine<Own>({}, policies<Own>(0.999f));
  auto const result = machine->run(random_batch(*machine, 30), Pass::forward_and_backward);
  check_assignment(result, 30, machine->sizes());
  REQUIRE(result.token_offsets.back() == 0);
  REQUIRE(result.status.tokens_without_expert == 30);
  for (double v : result.y) REQUIRE(v == 0);
  for (double v : result.dx) REQUIRE(v == 0);
  for (auto const& [name, gradient] : result.gradients)
    for (double g : gradient.values) REQUIRE(g == 0);
}

TEST_CASE("capacity limits a varying number of experts") {
  auto settings = policies<OwnWithCapacity>(0.55f);
  settings.capacity.places = 6;
  settings.capacity.order =
      GENERATE(kokomo::CapacityOrder::position, kokomo::CapacityOrder::token_priority, kokomo::CapacityOrder::score);
  auto const machine = make_machine<OwnWithCapacity>({}, settings);
  auto const result = machine->run(random_batch(*machine, 40), Pass::forward_and_backward);
  check_assignment(result, 40, machine->sizes());
  REQUIRE(result.status.dropped > 0);
  for (std::size_t e = 0; e < 8; ++e) REQUIRE(result.expert_offsets[e + 1] - result.expert_offsets[e] <= 6);
  for (double v : result.dx) REQUIRE(std::isfinite(v));
}

TEST_CASE("its settings are checked as the library's own") {
  REQUIRE_THROWS_AS(make_machine<Own>({}, policies<Own>(1.5f)), kokomo::Error);
}
