// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/layer_fixture.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/soft_moe.hpp>

namespace soft_moe_test {

using namespace kokomo;
using namespace kokomo::test;

template <class Experts = ScaleExperts, class T = double> struct Slots {
  using Layer = SoftMoe<Experts, T, Exec>;
  Exec exec;
  Layer layer;
  typename Layer::Parameters parameters, grads;
  Workspace<Exec> workspace;
  Tape<Exec> tape;
  std::mt19937 engine{3};
  OwnedMatrix<T, Exec> x, y, dy, dx;
  OwnedVector<index_t, Exec> mask;

  Slots(Shape const& shape, typename Layer::Policies const& policies)
      : layer(shape, policies), parameters(layer.make_parameters(exec)), grads(layer.make_parameters(exec)),
        workspace(exec, layer.plan(exec)), tape(exec, layer.plan(exec)), x("x", shape.tokens, shape.hidden),
        y("y", shape.tokens, shape.hidden), dy("dy", shape.tokens, shape.hidden), dx("dx", shape.tokens, shape.hidden) {
    exec.fence();
    parameters.for_each([&](std::string const&, auto const& view) { fill(view); });
    fill(x), fill(dy);
  }
  template <class V> void fill(V const& view) {
    std::uniform_real_distribution<double> uniform(-1, 1);
    std::vector<typename V::value_type> values(view.size());
    for (auto& v : values) v = typename V::value_type(uniform(engine));
    to_device(values, view);
  }
  typename Layer::Inputs inputs() const {
    typename Layer::Inputs in;
    in.x = x;
    if (mask.data() != nullptr) in.token_mask = mask;
    return in;
  }
  void forward() {
    poison(workspace), poison(tape), poison_view(y);
    layer.forward(exec, parameters, inputs(), y, workspace, tape);
    exec.fence();
  }
  void backward(Write write = Write::overwrite) {
    poison(workspace), poison_view(dx);
    if (write == Write::overwrite) grads.for_each([](std::string const&, auto const& view) { poison_view(view); });
    layer.backward(exec, parameters, inputs(), dy, dx, grads, workspace, tape, write);
    exec.fence();
  }
  double objective() {
    layer.forward(exec, parameters, inputs(), y, workspace, tape);
    exec.fence();
    auto const a = to_host(y), b = to_host(dy);
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
    return sum;
  }
  Rows rows(Row const& values) const { return in_rows(values, x.extent(0)); }
};

/// The published formula, token by token and slot by slot.
template <class S> Rows reference_output(S const& s, std::vector<index_t> const& mask = {}) {
  auto const& policies = s.layer.policies();
  bool const gain = policies.norm == SlotNorm::gain;
  auto const x = s.rows(in_double(to_host(s.x)));
  std::size_t const tokens = x.size(), width = x[0].size(), slots = std::size_t(s.layer.slots());
  auto const normed = [&](Rows rows, Row const& weight) {
    for (auto& row : rows) {
      double const length = std::sqrt(norm(row) * norm(row) + double(policies.epsilon));
      for (std::size_t h = 0; h < width; ++h)
        row[h] = row[h] / length * (gain ? std::sqrt(double(width)) * weight[h] : 1.0);
    }
    return rows;
  };
  auto const xn = normed(x, in_double(to_host(s.parameters.norm)));
  auto const phi =
      normed(in_rows(in_double(to_host(s.parameters.slots)), slots), in_double(to_host(s.parameters.slot_norm)));
  double const factor = gain ? 1 : to_host(s.parameters.scale)[0];
  auto const scale = in_rows(in_double(to_host(s.parameters.experts.scale)), std::size_t(s.layer.shape().experts));
  Rows y(tokens, Row(width));
  std::size_t const n = policies.tokens_per_sequence > 0 ? std::size_t(policies.tokens_per_sequence) : tokens;
  for (std::size_t begin = 0; begin < tokens; begin += n) {
    std::size_t const end = std::min(tokens, begin + n);
    auto const z = [&](std::size_t t, std::size_t slot) {
      double sum = 0;
      for (std::size_t h = 0; h < width; ++h) sum += xn[t][h] * phi[slot][h];
      return std::exp(factor * sum);
    };
    auto const on = [&](std::size_t t) { return mask.empty() || mask[t] != 0; };
    for (std::size_t slot = 0; slot < slots; ++slot) {
      double total = 0;
      Row in(width);
      for (std::size_t t = begin; t < end; ++t) total += on(t) ? z(t, slot) : 0;
      for (std::size_t t = begin; t < end; ++t)
        for (std::size_t h = 0; h < width && on(t); ++h) in[h] += z(t, slot) / total * (gain ? xn : x)[t][h];
      for (std::size_t t = begin; t < end; ++t) {
        if (!on(t)) continue;
        double all = 0;
        for (std::size_t other = 0; other < slots; ++other) all += z(t, other);
        for (std::size_t h = 0; h < width; ++h)
          y[t][h] += z(t, slot) / all * in[h] * scale[slot / std::size_t(policies.slots)][h];
      }
    }
  }
  return y;
}

TEST_CASE("soft mixture of experts equals its formula") {
  for (auto const norm_kind : {SlotNorm::unit, SlotNorm::gain})
    for (auto const& [tokens, experts, slots, sequence] :
         std::vector<std::array<offset_t, 4>>{{1, 1, 1, 0}, {9, 2, 3, 0}, {11, 3, 1, 4}, {20, 17, 2, 10}}) {
      Slots<> s({.tokens = tokens, .hidden = 5, .experts = experts},
                {.slots = slots, .tokens_per_sequence = sequence, .norm = norm_kind});
      s.forward();
      CHECK(relative_error(in_double(to_host(s.y)), flat(reference_output(s))) < 1e-12);
      auto const saved = s.layer.saved(s.tape);
      auto const dispatch = s.rows(in_double(to_host(saved.dispatch))),
                 combine = s.rows(in_double(to_host(saved.combine)));
      for (auto const& row : combine) {
        double sum = 0;
        for (double const v : row) sum += v;
        REQUIRE(sum == Approx(1));
      }
      offset_t const n = sequence > 0 ? sequence : tokens;
      for (std::size_t slot = 0; slot < dispatch[0].size(); ++slot) {
        double sum = 0;
        for (offset_t t = 0; t < std::min(n, tokens); ++t) sum += dispatch[std::size_t(t)][slot];
        REQUIRE(sum == Approx(1));
      }
    }
}

TEST_CASE("soft mixture of experts: tokens in another order, longer tokens, padding") {
  Slots<> s({.tokens = 6, .hidden = 4, .experts = 3}, {.slots = 2, .epsilon = 0});
  s.forward();
  auto const y = s.rows(in_double(to_host(s.y))), dispatch = s.rows(in_double(to_host(s.layer.saved(s.tape).dispatch)));
  auto const slot_in = in_double(to_host(s.layer.saved(s.tape).slot_in));
  auto const x = s.rows(in_double(to_host(s.x)));
  Rows turned(x.rbegin(), x.rend());
  to_device(flat(turned), s.x);
  s.forward();
  auto const other = s.rows(in_double(to_host(s.y)));
  CHECK(relative_error(flat(Rows(other.rbegin(), other.rend())), flat(y)) < 1e-13);

  Rows longer = x;
  for (auto& row : longer)
    for (double& v : row) v *= 5;
  to_device(flat(longer), s.x);
  s.forward();
  CHECK(relative_error(in_double(to_host(s.layer.saved(s.tape).dispatch)), flat(dispatch)) < 1e-13);
  auto scaled = slot_in;
  for (double& v : scaled) v *= 5;
  CHECK(relative_error(in_double(to_host(s.layer.saved(s.tape).slot_in)), scaled) < 1e-13);

  to_device(flat(x), s.x);
  s.mask = OwnedVector<index_t, Exec>("mask", 6);
  std::vector<index_t> const mask{1, 0, 1, 1, 0, 1};
  to_device(mask, s.mask);
  s.forward();
  CHECK(relative_error(in_double(to_host(s.y)), flat(reference_output(s, mask))) < 1e-12);
}

TEST_CASE("soft mixture of experts: gradients") {
  for (auto const norm_kind : {SlotNorm::unit, SlotNorm::gain}) {
    Slots<> s({.tokens = 7, .hidden = 3, .experts = 2}, {.slots = 2, .tokens_per_sequence = 4, .norm = norm_kind});
    s.mask = OwnedVector<index_t, Exec>("mask", 7);
    to_device(std::vector<index_t>{1, 1, 0, 1, 1, 1, 1}, s.mask);
    s.forward(), s.backward();
    std::map<std::string, Row> gradients;
    s.grads.for_each([&](std::string const& name, auto const& view) { gradients[name] = in_double(to_host(view)); });
    gradients["x"] = in_double(to_host(s.dx));
    auto const check = [&](std::string const& name, auto const& view) {
      auto values = to_host(view);
      Row differences;
      for (auto& element : values) {
        double const original = element;
        double f[2];
        for (int side = 0; side < 2; ++side) {
          element = original + (side == 0 ? 1e-5 : -1e-5);
          to_device(values, view);
          f[side] = s.objective();
        }
        element = original;
        differences.push_back((f[0] - f[1]) / 2e-5);
      }
      to_device(values, view);
      INFO(name);
      CHECK(relative_error(gradients.at(name), differences) < 1e-7); // h^2 = 1e-10, and rounding 1e-16 / h
    };
    s.parameters.for_each(check);
    check("x", s.x);

    s.forward();
    s.backward(Write::add);
    s.grads.for_each([&](std::string const& name, auto const& view) {
      auto twice = gradients.at(name);
      for (double& v : twice) v *= 2;
      CHECK(relative_error(in_double(to_host(view)), twice) < 1e-12);
    });
  }
}

TEST_CASE("soft mixture of experts: no tokens, fewer tokens, what makes no sense") {
  Slots<AnyPlainExperts, float> s({.tokens = 8, .hidden = 4, .experts = 2}, {.experts = {.intermediate = 3}});
  s.forward(), s.backward();
  s.x = OwnedMatrix<float, Exec>("x", 0, 4), s.y = s.dy = s.dx = s.x;
  s.layer.forward(s.exec, s.parameters, s.inputs(), s.y, s.workspace, s.tape);
  s.layer.backward(s.exec, s.parameters, s.inputs(), s.dy, s.dx, s.grads, s.workspace, s.tape);
  s.exec.fence();
  s.grads.for_each([](std::string const& name, auto const& view) {
    INFO(name);
    CHECK(norm(in_double(to_host(view))) == 0);
  });
  s.x = OwnedMatrix<float, Exec>("x", 9, 4);
  REQUIRE_THROWS_AS(s.layer.forward(s.exec, s.parameters, s.inputs(), s.x, s.workspace, s.tape), Error);

  using Layer = SoftMoe<AnyPlainExperts>;
  Shape const shape{.tokens = 8, .hidden = 4, .experts = 2};
  REQUIRE_THROWS_AS(Layer(shape, {.slots = 0, .experts = {.intermediate = 3}}), Error);
  REQUIRE_THROWS_AS(Layer(shape, {.tokens_per_sequence = -1, .experts = {.intermediate = 3}}), Error);
  REQUIRE_THROWS_AS(Layer(shape, {.epsilon = -1, .experts = {.intermediate = 3}}), Error);
  REQUIRE_THROWS_AS(Layer(shape, {}), Error); // experts without a size
}

} // namespace soft_moe_test
