// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "preset.hpp"

#include <support/finite_differences.hpp>

#include <kokomo/models/moe_plus_plus.hpp>

namespace moe_plus_plus_test {

using namespace kokomo;
using namespace kokomo::test;

/// What an expert of a fixture returns: two with weights, two constant ones, a copy, a zero.
template <class F> Row expert(F const& f, int e, Row const& x) {
  auto const& p = f.parameters.experts;
  std::size_t const width = x.size();
  Row y(width, 0.0);
  if (e < 2) {
    auto const scale = matrix_of(p.scale);
    for (std::size_t h = 0; h < width; ++h) y[h] = scale[std::size_t(e)][h] * x[h];
  } else if (e < 4) {
    auto const router = in_rows(in_double(to_host(p.constant_router)), 4), constant = matrix_of(p.constant);
    double z[2] = {0, 0};
    for (std::size_t i = 0; i < 2; ++i)
      for (std::size_t h = 0; h < width; ++h) z[i] += router[2 * std::size_t(e - 2) + i][h] * x[h];
    double const a = std::exp(z[0]), b = std::exp(z[1]);
    for (std::size_t h = 0; h < width; ++h) y[h] = (a * x[h] + b * constant[std::size_t(e - 2)][h]) / (a + b);
  } else if (e == 4) {
    y = x;
  }
  return y;
}

template <class Layer> struct Stack : Fixture<Layer> {
  OwnedMatrix<double, Exec> previous{"previous", 11, 6};

  explicit Stack(unsigned seed) : Fixture<Layer>({.tokens = 11, .hidden = 3, .experts = 2}, policies(), seed) {
    this->fill(previous);
    this->more_inputs = [this](typename Layer::Inputs& in) { in.scorer.previous_logits = previous; };
  }
  static typename Layer::Policies policies() {
    typename Layer::Policies p;
    models::configure_moe_plus_plus(p, 2, 4, true);
    return p;
  }
  Rows logits() const {
    auto const& router = this->parameters.router;
    auto hidden = products(matrix_of(this->x), matrix_of(router.hidden_weight));
    for (auto& row : hidden)
      for (double& v : row) v = std::tanh(v);
    auto z = products(hidden, matrix_of(router.weight));
    auto const more = products(matrix_of(previous), matrix_of(router.residual));
    for (std::size_t t = 0; t < z.size(); ++t)
      for (std::size_t e = 0; e < 6; ++e) z[t][e] += more[t][e];
    return z;
  }
};

/// \param normalized weights of a token from its logits and its two best experts
template <class Layer, class Normalized> void check(Normalized const& normalized) {
  std::vector<int> seen(6, 0);
  for (unsigned seed = 1; seed <= 4; ++seed) {
    Stack<Layer> f(seed);
    f.forward();
    auto const out = f.result();
    auto const x = matrix_of(f.x), z = f.logits();
    Rows y(11, Row(3, 0.0));
    for (std::size_t t = 0; t < 11; ++t) {
      auto const chosen = best(z[t], 2);
      REQUIRE(std::vector<std::size_t>(out.choice[t].begin(), out.choice[t].end()) == chosen);
      std::vector<double> const weights = normalized(z[t], chosen);
      for (std::size_t i = 0; i < 2; ++i) {
        REQUIRE(out.weights[t][i] == Approx(weights[i]).epsilon(1e-12));
        auto const part = expert(f, int(chosen[i]), x[t]);
        for (std::size_t h = 0; h < 3; ++h) y[t][h] += weights[i] * part[h];
        ++seen[chosen[i]];
      }
    }
    REQUIRE(relative_error(flat(out.y), flat(y)) <= 1e-12); // sums of a dozen terms in another order
    check_grouping(f);
    check_gradients(f);
  }
  for (int const count : seen) REQUIRE(count > 0); // every kind of expert was there
}

TEST_CASE("MoE++: the zero expert weighs nothing, and leaves its partner all of the weight") {
  check<models::MoePlusPlus<double, Exec, ScaleExperts>>([](Row const& z, std::vector<std::size_t> const& chosen) {
    double sum = 0;
    for (auto const e : chosen) sum += e == 5 ? 0 : std::exp(z[e]);
    std::vector<double> weights;
    for (auto const e : chosen) weights.push_back(e == 5 ? 0 : std::exp(z[e]) / sum);
    return weights;
  });
}

TEST_CASE("MoE++: without its matrix the residual changes nothing, a constant expert with all weight on its input "
          "copies it") {
  using Layer = models::MoePlusPlus<double, Exec, ScaleExperts>;
  Stack<Layer> f(2);
  auto residual = to_host(f.parameters.router.residual);
  std::fill(residual.begin(), residual.end(), 0.0);
  to_device(residual, f.parameters.router.residual);
  auto x = to_host(f.x); // positive, so that the sign of a row decides the softmax of two
  for (double& v : x) v = 0.5 + std::abs(v);
  to_device(x, f.x);
  auto constant_router = to_host(f.parameters.experts.constant_router);
  for (std::size_t i = 0; i < constant_router.size(); ++i) constant_router[i] = i / 3 % 2 == 0 ? 1000 : -1000;
  to_device(constant_router, f.parameters.experts.constant_router);
  f.forward();
  auto const before = f.result();
  to_device(Row(66, 0.0), f.previous);
  f.forward();
  REQUIRE(f.result().logits == before.logits);
  auto const rows = matrix_of(f.x), scale = matrix_of(f.parameters.experts.scale);
  int constants = 0;
  for (std::size_t t = 0; t < 11; ++t) {
    Row y(3, 0.0);
    for (std::size_t i = 0; i < 2; ++i) {
      int const e = before.choice[t][i];
      constants += e == 2 || e == 3 ? 1 : 0;
      for (std::size_t h = 0; h < 3; ++h)
        y[h] += before.weights[t][i] * (e < 2 ? scale[std::size_t(e)][h] : e == 5 ? 0 : 1) * rows[t][h];
    }
    REQUIRE(distance(before.y[t], y) <= 1e-14);
  }
  REQUIRE(constants > 0);
}

TEST_CASE("MoE++ in its other mode: the softmax of the two chosen, the zero expert's share is lost") {
  check<models::MoePlusPlusSelected<double, Exec, ScaleExperts>>(
      [](Row const& z, std::vector<std::size_t> const& chosen) {
        auto const weights = softmax_over(z, chosen);
        return std::vector<double>{weights.at(int(chosen[0])), weights.at(int(chosen[1]))};
      });
}

} // namespace moe_plus_plus_test
