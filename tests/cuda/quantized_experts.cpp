// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/experts/quantized.hpp>

#include <algorithm>

using namespace kokomo;

namespace {

template <class Exec, class Experts = SwiGluExperts>
using Model = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, Experts, float, Exec>;

template <class Exec> using Dense = Model<Exec>;

/// Output of a layer whose experts were quantised where it runs; they have no backward.
template <class Exec, class Format> std::vector<double> output(Activations activations) {
  using Tools = Run<Dense>;
  using Original = Model<Exec, SwiGluExperts>;
  using Quantized = Model<Exec, QuantizedExperts<SwiGlu, Format>>;
  Shape const shape{.tokens = 37, .hidden = 80, .experts = 4};
  Exec const exec;
  Original const original(shape, {.router = {.selector = {.k = 2}}, .experts = {.intermediate = 48, .bias = true}});
  Quantized const layer(shape, {.router = {.selector = {.k = 2}},
                                .experts = {.intermediate = 48, .bias = true, .activations = activations}});
  auto const from = original.make_parameters(exec);
  auto to = layer.make_parameters(exec);
  exec.fence();
  unsigned seed = 1;
  from.for_each([&](std::string const&, auto const& view) { Tools::fill(view, ++seed); });
  OwnedMatrix<float, Exec> const x("x", 37, 80), y("y", 37, 80);
  Tools::fill(x, ++seed);
  to.router = from.router;
  layer.policies().experts.quantize(exec, original.policies().experts, from.experts, to.experts);
  auto const state = layer.make_state(exec);
  auto const plan = layer.plan(exec);
  Workspace<Exec> const workspace(exec, plan);
  Tape<Exec> tape(exec, plan);
  layer.forward(exec, to, state, x, y, workspace, tape);
  exec.fence();
  return Tools::read(y);
}

template <class Format> bool agrees(char const* name, Activations activations = Activations::as_stored) {
  // the order of sums differs; int8 activations may differ by a step where float32 meets a tie
  double const bound = activations == Activations::int8 ? 1e-3 : 1e-4;
  return agree(name, {output<Kokkos::Cuda, Format>(activations)}, {output<Host, Format>(activations)}, bound);
}

} // namespace

int quantized_experts() {
  int failed = 0;
  failed += !agrees<Int8<0>>("Int8<0>");
  failed += !agrees<Int8<32>>("Int8<32>, int8 activations", Activations::int8);
  failed += !agrees<Int4ZeroPoint>("Int4ZeroPoint");
  failed += !agrees<Mxfp4>("Mxfp4");
  failed += !agrees<Fp8Blocks>("Fp8Blocks");
  return failed;
}
