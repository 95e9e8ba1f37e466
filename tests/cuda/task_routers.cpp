// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include "../support/scale_experts.hpp"

#include <kokomo/balancer/preference_loss.hpp>
#include <kokomo/models/dense_to_sparse.hpp>
#include <kokomo/models/multi_head_routing.hpp>
#include <kokomo/models/product_keys.hpp>

using namespace kokomo;

namespace {

template <class Exec> using WithNormalizedQueries = models::PeerNormalized<float, Exec>;
template <class Exec> using WithSampledSkills = models::MultiHeadRouting<float, Exec>;
template <class Exec>
using WithShares = models::UnionOfExpertsData<float, Exec, ScoreGate<IdentityScore>, test::ScaleExperts>;

template <class Exec>
using WithPreference =
    Layer<Router<LinearScorer, TopK<2>>, SoftmaxGate, PreferenceLoss<Exec>, test::ScaleExperts, float, Exec>;

/// Half of a dense network's columns.
template <class Exec> std::vector<double> cut() {
  Exec const exec;
  SwiGluExperts const dense{.intermediate = 8}, part{.intermediate = 5};
  using Parameters = SwiGluExperts::Parameters<float, Exec>;
  Sizes sizes;
  sizes.hidden = 6, sizes.weighted = 1;
  Allocator<Exec> const allocate(exec);
  Parameters const network(allocate, dense, sizes), expert(allocate, part, sizes);
  Run<WithShares>::fill(network.gate_up, 1), Run<WithShares>::fill(network.down, 2);
  copy_columns<float>(exec, dense, network, part, expert, 0, equal_parts(8, 2)[1]);
  auto all = Run<WithShares>::read(expert.gate_up);
  for (double const value : Run<WithShares>::read(expert.down)) all.push_back(value);
  return all;
}

} // namespace

int task_routers() {
  int failed = 0;
  failed += !Run<WithNormalizedQueries>::agrees("WithNormalizedQueries",
                                                [](auto& p) {
                                                  p.router.scorer.keys = {.heads = 2, .key_size = 4};
                                                  p.router.selector = {.k = 3, .heads = 2};
                                                  p.gate.heads = 2;
                                                },
                                                {.tokens = 37, .hidden = 24, .experts = 16});
  failed += !Run<WithSampledSkills>::agrees("WithSampledSkills", [](auto& p) {
    models::configure_multi_head_routing(p, /*tasks*/ 2, /*splits*/ 2, /*skills*/ 4, /*rank*/ 3);
    p.gate.activity = SkillActivity::relaxed, p.gate.dropout = 0.25f;
  });
  failed +=
      !Run<WithShares>::agrees("WithShares", [](auto& p) { models::configure_union_of_experts_data(p, /*k*/ 2, 10); });
  failed += !Run<WithPreference>::agrees("WithPreference", [](auto& p) {
    p.balancer.target = decltype(p.balancer.target)("target", 37);
    Kokkos::deep_copy(p.balancer.target, 0.75);
  });
  failed += !agree("cut", {cut<Kokkos::Cuda>()}, {cut<Host>()}, 0);
  return failed;
}
