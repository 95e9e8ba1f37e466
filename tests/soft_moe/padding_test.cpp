// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>
#include <support/scale_experts.hpp>
#include <support/views.hpp>

#include <kokomo/soft_moe.hpp>

#include <limits>
#include <map>
#include <string>

namespace padding_test {

using namespace kokomo;
using namespace kokomo::test;

using Layer = SoftMoe<ScaleExperts, double, Exec>;

/// Forward and backward of a batch whose masked rows of x and dy hold `padding`.
std::map<std::string, Row> run(SlotNorm norm_kind, std::vector<index_t> const& mask, double padding) {
  Exec const exec;
  auto const tokens = mask.size();
  Layer const layer({.tokens = offset_t(tokens), .hidden = 3, .experts = 2},
                    {.slots = 2, .tokens_per_sequence = 4, .norm = norm_kind, .epsilon = 0});
  auto const parameters = layer.make_parameters(exec), grads = layer.make_parameters(exec);
  OwnedMatrix<double, Exec> x("x", tokens, 3), y("y", tokens, 3), dy("dy", tokens, 3), dx("dx", tokens, 3);
  OwnedVector<index_t, Exec> given("mask", tokens);
  exec.fence();
  auto const fill = [](auto const& view, double shift) {
    Row values(view.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(1 + 1.7 * double(i) + shift);
    to_device(values, view);
  };
  fill(x, 0), fill(dy, 1);
  parameters.for_each([&](std::string const& name, auto const& view) { fill(view, double(name.size())); });
  for (auto const& view : {x, dy}) {
    auto values = to_host(view);
    for (std::size_t i = 0; i < values.size(); ++i)
      if (mask[i / 3] == 0) values[i] = padding;
    to_device(values, view);
  }
  to_device(mask, given);
  Workspace<Exec> const workspace(exec, layer.plan(exec));
  Tape<Exec> tape(exec, layer.plan(exec));
  poison(workspace), poison(tape);
  Layer::Inputs inputs;
  inputs.x = x, inputs.token_mask = given;
  layer.forward(exec, parameters, inputs, y, workspace, tape);
  layer.backward(exec, parameters, inputs, dy, dx, grads, workspace, tape);
  exec.fence();
  std::map<std::string, Row> all{{"y", in_double(to_host(y))}, {"dx", in_double(to_host(dx))}};
  grads.for_each([&](std::string const& name, auto const& view) { all[name] = in_double(to_host(view)); });
  return all;
}

TEST_CASE("soft mixture of experts: what padding holds, numbers or not, changes no bit of anything") {
  // the second sequence is padding alone
  std::vector<index_t> const mask{1, 0, 1, 1, 0, 0, 0, 0, 1, 0};
  for (auto const norm_kind : {SlotNorm::unit, SlotNorm::gain}) {
    auto const expected = run(norm_kind, mask, 0.5);
    for (auto const& [name, values] : expected) {
      INFO(name);
      REQUIRE(norm(values) > 0);
    }
    for (std::size_t t = 0; t < mask.size(); ++t)
      for (std::size_t h = 0; h < 3; ++h)
        if (mask[t] == 0) REQUIRE((expected.at("y")[3 * t + h] == 0 && expected.at("dx")[3 * t + h] == 0));
    for (double const padding :
         {0.0, 1e300, std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()})
      REQUIRE(run(norm_kind, mask, padding) == expected);
  }
}

} // namespace padding_test
