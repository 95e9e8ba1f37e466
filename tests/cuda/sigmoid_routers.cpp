// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/balancer/z_loss.hpp>
#include <kokomo/router/group_limited_top_k.hpp>

using namespace kokomo;

// The layers below compile the kernels for bfloat16; of float16 the multiplication alone is another instruction.
template __global__ void
detail::cuda::run(detail::cuda::Product<float16, float, detail::cuda::DefaultTile, detail::cuda::Inner::depth> const);

namespace {

template <class Exec>
using GroupedWithShared =
    Layer<Router<LinearScorer, GroupLimitedTopK<>>, NormalizedSigmoidGate,
          Balancers<SelectionBias, LoadBalancingLoss, ZLoss>, WithShared<SwiGluExperts>, bfloat16, Exec>;

} // namespace

/// 16-bit experts, routed and shared, compute on tensor cores: every storage order of their weights, rows of several
/// tiles and few rows, sizes that are multiples of nothing; and the portable products.
int sigmoid_routers() {
  int failed = 0;
  auto const agrees = [&](char const* name, Shape const& shape, SwiGluExperts const& experts) {
    failed += !Run<GroupedWithShared>::agrees(
        name,
        [&](auto& p) {
          p.router.selector = {.k = 3, .groups = 4, .allowed_groups = 2};
          p.experts.routed = p.experts.shared = experts;
        },
        shape);
  };
  Shape const small{.tokens = 37, .hidden = 24, .experts = 8}, large{.tokens = 700, .hidden = 264, .experts = 8};
  SwiGluExperts const plain{.intermediate = 16};
  agrees("GroupedWithShared", small, plain);
  auto other = plain;
  other.products = Products::portable;
  agrees("portable products", small, other);
  agrees("few rows an expert", {.tokens = 5, .hidden = 520, .experts = 8}, {.intermediate = 72, .bias = true});
  agrees("tiles of rows", large, {.intermediate = 200});
  agrees("weights as in_out", large,
         {.intermediate = 200, .bias = true, .up_order = WeightOrder::in_out, .down_order = WeightOrder::in_out});
  agrees("interleaved, odd sizes", {.tokens = 333, .hidden = 67, .experts = 8},
         {.intermediate = 45, .bias = true, .gate_up = GateUp::interleaved, .save = Save::inputs});
  agrees("interleaved, in_out", large,
         {.intermediate = 64, .gate_up = GateUp::interleaved, .up_order = WeightOrder::in_out});
  agrees("separate", large, {.intermediate = 136, .gate_up = GateUp::separate});
  return failed;
}
