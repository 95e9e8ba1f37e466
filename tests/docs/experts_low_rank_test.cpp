// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/compress/low_rank.hpp>
#include <kokomo/experts/low_rank_plus_row_sparse.hpp>
#include <kokomo/models/placed.hpp>

namespace {

using Dense = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>>;

} // namespace

TEST_CASE("low_rank_plus_row_sparse") {
  // [snippet:low_rank_plus_row_sparse]
  namespace compress = kokomo::compress;
  using Layer = kokomo::models::CompressedMcSmoe<Dense>; // Dense: SwiGLU experts
  kokomo::Shape const shape{.tokens = 3, .hidden = 4, .experts = 2};
  Example<Dense> run(shape, {.router = {.selector = {.k = 1}}, .experts = {.intermediate = 6}});
  run.forward();

  auto const rank = compress::rank_of_ratio(0.5, 6, 4); // 2, of at most 4
  Example<Layer> small(shape, {.router = {.selector = {.k = 1}},
                               .experts = {.intermediate = 6, .rank = rank, .kept_hidden = 6, .kept_out = 4},
                               .placement = {.stored = 2}});
  auto const units = compress::read_units(run.exec, run.layer.policies().experts, run.parameters.experts);
  compress::write_low_rank(run.exec, small.layer.policies().experts, small.parameters.experts, units);
  small.parameters.router = run.parameters.router;
  small.inputs.x = run.x;
  small.layer.policies().placement.set(run.exec, small.state.placement, {0, 1}); // none is merged
  small.forward();
  REQUIRE(close(small.output(), run.output())); // all rows of S are there
  // [/snippet]
}
