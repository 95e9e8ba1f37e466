// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/gate/score_gate.hpp>
#include <kokomo/transform/cost_reward.hpp>
#include <kokomo/transform/freeze_by_score.hpp>
#include <kokomo/transform/hidden_columns.hpp>
#include <kokomo/transform/reinforce.hpp>
#include <kokomo/transform/spectral.hpp>

using kokomo::test::Exec;
using kokomo::test::fixture_of;
using kokomo::test::RoutingFixture;
using kokomo::test::to_device;
using kokomo::test::to_host;
using Table = kokomo::test::Rows;

TEST_CASE("cost_reward") {
  // [snippet:cost_reward]
  kokomo::CostWindow window;
  for (int n = 0; n <= 100; ++n) window.add(n * n); // roots 0 to 100: percentiles 5 and 95
  kokomo::CostReward const reward{.weight = 0.5};
  std::vector<double> losses; // of three draws: dear and right, cheap and right, cheap and wrong
  losses.push_back(-reward(true, 1, 0, window.cheapness(9025)));
  losses.push_back(-reward(true, 1, 0, window.cheapness(2500)));
  losses.push_back(-reward(true, 0, 0, window.cheapness(0)));
  REQUIRE(losses == std::vector<double>{-0.5, -0.75, 0});
  auto const advantages = kokomo::leave_one_out(losses); // for ScoreFunction, draw by draw
  REQUIRE(advantages[1] < advantages[0]);
  // [/snippet]
}

TEST_CASE("reinforce") {
  // [snippet:reinforce]
  // One token, three experts, of which only expert 1 is any good. The router learns it from losses of draws.
  kokomo::ScoreFunction<Exec> const policy{kokomo::OwnedVector<double, Exec>("advantage", 1)};
  Table logits{{0, 0, 0}};
  for (std::uint64_t step = 0; step < 100; ++step) {
    std::vector<RoutingFixture<>> draws; // stands for forwards of a layer, a tape each
    std::vector<double> losses;
    for (std::uint64_t m = 0; m < 2; ++m) {
      draws.emplace_back(logits);
      draws[m].routing.mode = kokomo::Mode::training;
      draws[m].routing.step = 2 * step + m;
      draws[m].select<kokomo::IdentityScore>(kokomo::GumbelTopK{.k = 1});
      losses.push_back(draws[m].chosen()[0][0] == 1 ? 0 : 1);
    }
    auto const advantages = kokomo::leave_one_out(losses);
    Table const before = logits;
    for (std::size_t m = 0; m < 2; ++m) {
      to_device(std::vector<double>{advantages[m]}, policy.advantage);
      auto const d = draws[m].loss_gradient(policy, draws[m].saved_of(policy)); // what backward adds to d_logits
      for (std::size_t e = 0; e < 3; ++e) logits[0][e] -= 1.0 * d[0][e];
    }
  }
  REQUIRE(kokomo::test::softmax(logits[0])[1] > 0.9);
  // [/snippet]
}

TEST_CASE("spectral") {
  // [snippet:spectral]
  Exec const exec;
  kokomo::SecondMoment<Exec> const moment(exec, 2);
  kokomo::Spectrum<Exec> const spectrum(exec, 2);
  kokomo::OwnedMatrix<double, Exec> x("x", 2, 2), grad("grad", 1, 2);
  to_device(std::vector<double>{3, 0, 1, 0}, x); // the old task lived on the first coordinate
  moment.accumulate<double>(exec, x);
  spectrum.decompose(exec, moment, /*energy*/ 0.99);
  to_device(std::vector<double>{5, 7}, grad);
  kokomo::SpectralTransform{}.apply<double>(exec, spectrum, grad);
  exec.fence();
  REQUIRE(to_host(grad) == std::vector<double>{0, 7}); // what the old task saw does not change
  // [/snippet]
}

TEST_CASE("freeze_by_score") {
  // [snippet:freeze_by_score]
  Exec const exec;
  kokomo::ExpertUsage<Exec> const usage(exec, 2);
  auto routing = fixture_of({.logits = {{9, 0}, {9, 0}, {0, 9}}, .k = 1});
  routing.weigh(kokomo::SigmoidGate{});
  kokomo::OwnedMatrix<double, Exec> x("x", 3, 1);
  to_device(std::vector<double>{1, 1, 4}, x); // expert 1: one token of three, but by far the largest
  kokomo::FreezeByScore const policy{.threshold = 0.1f};
  policy.update<double>(exec, usage, x, routing.assignment);
  policy.decide(exec, usage);
  exec.fence();
  REQUIRE(to_host(usage.frozen) == std::vector<kokomo::index_t>{0, 1}); // scores 1 - 0 and 0 - 1
  // [/snippet]
}

TEST_CASE("hidden_columns") {
  // [snippet:hidden_columns]
  Exec const exec;
  kokomo::SwiGluExperts const dense{.intermediate = 8}, part{.intermediate = 2};
  using Parameters = kokomo::SwiGluExperts::Parameters<float, Exec>;
  kokomo::Sizes sizes{.hidden = 4};
  kokomo::Allocator<Exec> const allocate(exec);
  sizes.weighted = 1;
  Parameters const network(allocate, dense, sizes); // a trained one, in practice
  sizes.weighted = 4;
  Parameters const experts(allocate, part, sizes);
  Kokkos::deep_copy(network.down, 0.5f);
  auto const columns = kokomo::equal_parts(8, 4);
  for (kokomo::index_t e = 0; e < 4; ++e)
    kokomo::copy_columns<float>(exec, dense, network, part, experts, e, columns[std::size_t(e)]);
  REQUIRE(to_host(experts.down) == std::vector<float>(4 * 4 * 2, 0.5f));
  // [/snippet]
}
