// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/multi_head_routing.hpp>
#include <kokomo/models/product_keys.hpp>

using namespace kokomo;

namespace {

template <class Exec> using WithNormalizedQueries = models::PeerNormalized<float, Exec>;
template <class Exec> using WithSampledSkills = models::MultiHeadRouting<float, Exec>;

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
  return failed;
}
