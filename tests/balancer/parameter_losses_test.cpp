// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>

#include <kokomo/balancer/expert_router_coupling.hpp>
#include <kokomo/balancer/orthogonality_loss.hpp>
#include <kokomo/router/linear_scorer.hpp>
#include <kokomo/router/top_k.hpp>

#include <optional>
#include <random>

namespace parameter_losses_test {

using namespace kokomo;
using namespace kokomo::test;

/// The parameters that such losses look at.
struct Parameters {
  parameters_t<LinearScorer, double, Exec> router;
  parameters_t<SwiGluExperts, double, Exec> experts;
};

/// Router rows [n][d] and, for a coupling, projections [n][units * d] in the order that the settings say.
template <class Balancer> struct Subject {
  Balancer policy;
  SwiGluExperts experts;
  RoutingFixture<> f;
  Parameters parameters, grads;

  Subject(Balancer const& p, Rows const& rows, SwiGluExperts const& e = {.intermediate = 1})
      : policy(p), experts(e), f(Rows{Row(rows.size(), 0.0)}), parameters(), grads() {
    f.sizes.hidden = f.sizes.router_width = offset_t(rows[0].size());
    f.select<IdentityScore>(TopK<>{.k = 1});
    for (auto* p_ : {&parameters, &grads}) {
      p_->router = f.parameters_of(LinearScorer{});
      p_->experts = f.parameters_of(experts);
    }
    set_rows(rows);
  }
  void set_rows(Rows const& rows) { to_device(flat(rows), parameters.router.weight); }
  auto const& stored(Parameters const& p) const {
    return p.experts.gate_up.extent(0) > 0 ? p.experts.gate_up : p.experts.gate;
  }
  void set_gate(Row const& values) { to_device(values, stored(parameters)); }

  double loss() {
    policy.check(f.sizes);
    OwnedVector<double, Exec> total("loss", 1);
    f.routing.sizes = f.sizes;
    m_saved.emplace(f.saved_of(policy));
    policy.template observe_parameters<double>(f.exec, parameters, f.routing, *m_saved, Vector<double, Exec>(total));
    f.exec.fence();
    return to_host(total)[0];
  }
  void backward() {
    tensor(grads.router.weight).write(Row(grads.router.weight.size()));
    for (auto const& [name, gradient] : policy_tensors(grads.experts)) gradient.write(Row(gradient.size));
    policy.template backward_parameters<double>(f.exec, parameters, f.routing, *m_saved, grads);
    f.exec.fence();
  }
  auto const& saved() const { return *m_saved; }

private:
  std::optional<saved_t<Balancer, double, Exec>> m_saved;
};

Rows random_rows(std::size_t n, std::size_t d, unsigned seed) {
  std::mt19937 engine(seed);
  Rows rows(n, Row(d));
  for (auto& row : rows)
    for (auto& value : row) value = double(engine()) / 4294967296.0 - 0.5;
  return rows;
}
double dot(Row const& a, Row const& b) {
  double sum = 0;
  for (std::size_t k = 0; k < a.size(); ++k) sum += a[k] * b[k];
  return sum;
}

TEST_CASE("orthogonality: zero for orthonormal rows, the entrywise norm otherwise, blind to rotations") {
  OrthogonalityLoss const unit{.coefficient = 1};
  REQUIRE(Subject(unit, Rows{{0.6, 0.8, 0}, {-0.8, 0.6, 0}}).loss() <= 1e-15);
  REQUIRE(Subject(unit, Rows{{2, 0}, {1, 1}}).loss() == Approx(3 + 1 + 2 + 2).epsilon(1e-14)); // [[4, 2], [2, 2]] - I
  auto rows = random_rows(5, 70, 1);
  double expected = 0;
  for (std::size_t i = 0; i < 5; ++i)
    for (std::size_t j = 0; j < 5; ++j) expected += std::abs(dot(rows[i], rows[j]) - (i == j ? 1 : 0));
  REQUIRE(Subject(unit, rows).loss() == Approx(expected).epsilon(1e-13));
  for (auto& row : rows) { // turn the plane of two coordinates
    double const x = row[3], y = row[40];
    row[3] = 0.28 * x - 0.96 * y, row[40] = 0.96 * x + 0.28 * y;
  }
  REQUIRE(Subject(unit, rows).loss() == Approx(expected).epsilon(1e-13));
}

TEST_CASE("orthogonality: the gradient is R (sign + sign^T), and equals differences") {
  auto const rows = random_rows(4, 67, 2);
  Subject subject(OrthogonalityLoss{.coefficient = 0.5f}, rows);
  subject.loss();
  subject.backward();
  Row by_formula;
  for (std::size_t i = 0; i < 4; ++i)
    for (std::size_t h = 0; h < 67; ++h) {
      double sum = 0;
      for (std::size_t j = 0; j < 4; ++j) {
        double const deviation = dot(rows[i], rows[j]) - (i == j ? 1 : 0);
        sum += 0.5 * 2 * (deviation > 0 ? 1 : -1) * rows[j][h];
      }
      by_formula.push_back(sum);
    }
  REQUIRE(relative_error(to_host(subject.grads.router.weight), by_formula) <= 1e-13);
  auto const differences = logit_differences(rows, [&](Rows const& moved) {
    subject.set_rows(moved);
    return subject.loss();
  });
  REQUIRE(relative_error(by_formula, flat(differences)) <= 1e-8);
}

/// Gates of which expert j's is `gate(j)` [units][d], stored [n, 2 units, d] with the up projection of ones below.
Row gates(Rows const& each, std::size_t d) {
  Row all;
  for (auto const& gate : each) {
    all.insert(all.end(), gate.begin(), gate.end());
    all.insert(all.end(), gate.size(), 1.0);
  }
  (void)d;
  return all;
}
Row identity(std::size_t d) {
  Row matrix(d * d, 0.0);
  for (std::size_t k = 0; k < d; ++k) matrix[k * d + k] = 1;
  return matrix;
}
/// Keeps coordinate k alone.
Row only(std::size_t k, std::size_t d) {
  Row matrix(d * d, 0.0);
  matrix[k * d + k] = 1;
  return matrix;
}

TEST_CASE("coupling, closed forms without noise") {
  for (double const alpha : {0.0, 0.5, 1.0, 2.0}) {
    ExpertRouterCoupling const policy{.coefficient = 1, .alpha = float(alpha), .noise = false};
    { // equal experts that keep lengths, rows of length 3: M = 3 everywhere
      Subject s(policy, Rows{{3, 0, 0}, {0, 3, 0}, {0, 0, -3}}, {.intermediate = 3});
      s.set_gate(gates({identity(3), identity(3), identity(3)}, 3));
      REQUIRE(s.loss() == Approx(2 * 3 * (1 - 1 / 3.0) * std::max(1 - alpha, 0.0)).margin(1e-15));
    }
    { // M = I
      Subject s(policy, Rows{{1, 0}, {0, 1}}, {.intermediate = 2});
      s.set_gate(gates({only(0, 2), only(1, 2)}, 2));
      REQUIRE(s.loss() == 0);
      s.set_gate(gates({only(1, 2), only(0, 2)}, 2)); // exchanged: M = [[0, 1], [1, 0]]
      REQUIRE(s.loss() == Approx(1).epsilon(1e-15));
    }
  }
}

/// The loss by loops, without noise.
double coupling(Rows const& rows, Rows const& each, std::size_t units, double alpha) {
  std::size_t const n = rows.size(), d = rows[0].size();
  Rows m(n, Row(n, 0.0));
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      for (std::size_t u = 0; u < units; ++u) {
        double const a =
            dot(rows[i], Row(each[j].begin() + std::ptrdiff_t(u * d), each[j].begin() + std::ptrdiff_t((u + 1) * d)));
        m[i][j] += a * a;
      }
      m[i][j] = std::sqrt(m[i][j]);
    }
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      if (j != i) sum += std::max(m[i][j] - alpha * m[i][i], 0.0) + std::max(m[j][i] - alpha * m[i][i], 0.0);
  return sum / double(n * n);
}

TEST_CASE("coupling equals a loop in every storage order") {
  std::size_t const n = 4, d = 9, units = 3;
  auto const rows = random_rows(n, d, 3);
  auto const each = random_rows(n, units * d, 4);
  double const expected = coupling(rows, each, units, 0.8f);
  auto const policy = [](GateUp gate_up, WeightOrder order) {
    return ExpertRouterCoupling{.coefficient = 1, .alpha = 0.8f, .noise = false, .gate_up = gate_up, .up_order = order};
  };
  for (auto const gate_up : {GateUp::concatenated, GateUp::interleaved, GateUp::separate})
    for (auto const order : {WeightOrder::out_in, WeightOrder::in_out}) {
      Subject s(policy(gate_up, order), rows, {.intermediate = offset_t(units), .gate_up = gate_up, .up_order = order});
      std::size_t const out = gate_up == GateUp::separate ? units : 2 * units;
      Row stored(n * out * d, 7.0);
      for (std::size_t j = 0; j < n; ++j)
        for (std::size_t u = 0; u < units; ++u)
          for (std::size_t k = 0; k < d; ++k) {
            std::size_t const row = gate_up == GateUp::interleaved ? 2 * u : u;
            stored[j * out * d + (order == WeightOrder::out_in ? row * d + k : k * out + row)] = each[j][u * d + k];
          }
      s.set_gate(stored);
      REQUIRE(s.loss() == Approx(expected).epsilon(1e-13));
    }
}

TEST_CASE("coupling: gradients equal differences, with noise through the radius, and in the experts") {
  std::size_t const n = 4, d = 6, units = 3;
  auto const rows = random_rows(n, d, 5);
  auto const each = random_rows(n, units * d, 6);
  for (Mode const mode : {Mode::inference, Mode::training}) {
    Subject s(ExpertRouterCoupling{.coefficient = 2, .alpha = 0.75f, .seed = 3}, rows,
              {.intermediate = offset_t(units)});
    s.f.routing.mode = mode;
    s.f.routing.step = 11;
    s.set_gate(gates(each, d));
    double const loss = s.loss();
    REQUIRE((loss != Approx(2 * coupling(rows, each, units, 0.75))) == (mode == Mode::training));
    s.backward();
    auto const d_rows = to_host(s.grads.router.weight);
    auto const d_gate = to_host(s.grads.experts.gate_up);
    auto const by_rows = logit_differences(rows, [&](Rows const& moved) {
      s.set_rows(moved);
      return s.loss();
    });
    s.set_rows(rows);
    auto const by_gate = logit_differences(Rows{gates(each, d)}, [&](Rows const& moved) {
      s.set_gate(moved[0]);
      return s.loss();
    });
    REQUIRE(norm(flat(by_rows)) > 1e-2);
    REQUIRE(relative_error(d_rows, flat(by_rows)) <= 1e-7);
    REQUIRE(relative_error(d_gate, flat(by_gate)) <= 1e-7);
  }
}

TEST_CASE("coupling: a detached radius is a constant of the gradient, zero and equal rows are defined") {
  auto const rows = random_rows(3, 5, 8);
  auto const each = random_rows(3, 10, 9);
  Row gradients[2];
  for (bool const detach : {false, true}) {
    Subject s(ExpertRouterCoupling{.coefficient = 1, .detach_radius = detach}, rows, {.intermediate = 2});
    s.f.routing.mode = Mode::training;
    s.set_gate(gates(each, 5));
    s.loss();
    s.backward();
    gradients[detach] = to_host(s.grads.router.weight);
  }
  REQUIRE(relative_error(gradients[0], gradients[1]) > 1e-3);

  Subject odd(ExpertRouterCoupling{.coefficient = 1}, Rows{{0, 0}, {1, 2}, {1, 2}}, {.intermediate = 2});
  odd.f.routing.mode = Mode::training;
  odd.set_gate(gates(random_rows(3, 4, 1), 2));
  REQUIRE(std::isfinite(odd.loss()));
  odd.backward();
  for (double const g : to_host(odd.grads.router.weight)) REQUIRE(std::isfinite(g));
}

TEST_CASE("a disturbed row stays nearer to its own than to any other") {
  auto const rows = random_rows(6, 5, 10);
  Subject s(ExpertRouterCoupling{}, rows, {.intermediate = 1});
  s.f.routing.mode = Mode::training;
  for (std::uint64_t step = 0; step < 100; ++step) {
    s.f.routing.step = step;
    s.loss();
    auto const proxies = in_rows(to_host(s.saved().proxy), 6);
    for (std::size_t i = 0; i < 6; ++i) {
      double nearest = 1e9;
      for (std::size_t j = 0; j < 6; ++j)
        if (j != i) nearest = std::min(nearest, distance(rows[i], rows[j]));
      REQUIRE(distance(proxies[i], rows[i]) > 0);
      REQUIRE(distance(proxies[i], rows[i]) <= nearest / 2);
    }
  }
}

} // namespace parameter_losses_test
