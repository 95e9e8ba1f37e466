// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>

#include <kokomo/balancer/preserve_loss.hpp>
#include <kokomo/experts/feed_forward.hpp>

#include <cmath>

namespace preserve_loss_test {

using namespace kokomo;
using namespace kokomo::test;

using Experts = FeedForwardExperts<Plain<Identity>>; // adapters of a rank
using Anchor = parameters_t<Experts, double, Exec>;
struct Parameters {
  Anchor experts;
};

struct Subject {
  RoutingFixture<> f{Rows{Row(3, 0.0)}};
  PreserveLoss<Anchor, Exec> policy;
  Parameters parameters, grads;

  explicit Subject(std::vector<index_t> const& preserved = {}) {
    f.sizes.hidden = 40;
    Experts const experts{.intermediate = 12, .bias = true};
    policy.coefficient = 0.25f;
    policy.anchor = f.parameters_of(experts);
    parameters.experts = f.parameters_of(experts), grads.experts = f.parameters_of(experts);
    if (!preserved.empty()) {
      policy.preserved = OwnedVector<index_t, Exec>("preserved", preserved.size());
      to_device(preserved, policy.preserved);
    }
    f.exec.fence();
    double shift = 0;
    for (auto* p : {&policy.anchor, &parameters.experts, &grads.experts})
      p->for_each(
          [&](Name const&, auto const& view) {
            Row values(view.size());
            for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(1.3 * double(i) + shift);
            to_device(values, view);
            shift += 0.7;
          },
          "");
  }
  double loss() {
    policy.check(f.sizes);
    OwnedVector<double, Exec> total("loss", 1);
    policy.observe_parameters<double>(f.exec, parameters, f.routing, f.saved_of(policy), Vector<double, Exec>(total));
    f.exec.fence();
    return to_host(total)[0];
  }
};

std::vector<Row> values_of(Anchor const& p) {
  std::vector<Row> all;
  p.for_each([&](Name const&, auto const& view) { all.push_back(in_double(to_host(view))); }, "");
  return all;
}

void check(std::vector<index_t> const& preserved) {
  Subject s(preserved);
  auto const now = values_of(s.parameters.experts), then = values_of(s.policy.anchor),
             before = values_of(s.grads.experts);
  REQUIRE(now.size() == 4); // up and down, each with a bias
  double expected = 0;
  auto gradient = before;
  for (std::size_t v = 0; v < now.size(); ++v)
    for (std::size_t i = 0; i < now[v].size(); ++i) {
      if (!preserved.empty() && preserved[i / (now[v].size() / 3)] == 0) continue;
      double const d = now[v][i] - then[v][i];
      expected += 0.25 * d * d;
      gradient[v][i] += 2 * 0.25 * d; // added to what is there
    }
  REQUIRE(s.loss() == Approx(expected).epsilon(1e-13));
  s.policy.backward_parameters<double>(s.f.exec, s.parameters, s.f.routing, s.f.saved_of(s.policy), s.grads);
  s.f.exec.fence();
  auto const out = values_of(s.grads.experts);
  for (std::size_t v = 0; v < out.size(); ++v) CHECK(relative_error(out[v], gradient[v]) < 1e-15);
}

TEST_CASE("experts are held near what they were: squared distances and their gradients") {
  check({});
  check({1, 0, 1});
}

TEST_CASE("nothing at the anchor, four times as much at twice the distance, an anchor of other experts is refused") {
  Subject s;
  s.parameters.experts = s.policy.anchor;
  REQUIRE(s.loss() == 0);
  Subject near, far;
  for (auto* subject : {&near, &far}) {
    subject->policy.anchor.for_each([](Name const&, auto const& view) { Kokkos::deep_copy(view, 0.0); }, "");
    subject->parameters.experts.for_each([](Name const&, auto const& view) { Kokkos::deep_copy(view, 0.0); }, "");
  }
  Kokkos::deep_copy(near.parameters.experts.up, 0.5), Kokkos::deep_copy(far.parameters.experts.up, 1.0);
  REQUIRE(far.loss() == Approx(4 * near.loss()).epsilon(1e-14));

  Subject other;
  other.policy.anchor = other.f.parameters_of(Experts{.intermediate = 11, .bias = true});
  REQUIRE_THROWS_AS(other.loss(), Error);
  Subject few({1, 1});
  REQUIRE_THROWS_AS(few.loss(), Error);
}

} // namespace preserve_loss_test
