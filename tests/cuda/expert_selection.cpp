// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/adaptive_routing.hpp>
#include <kokomo/models/batch_routing.hpp>
#include <kokomo/models/dr_llm.hpp>
#include <kokomo/models/multi_head_routing.hpp>
#include <kokomo/models/product_keys.hpp>

namespace {

template <class Exec> using ExpertSelection = kokomo::models::ExpertSelectionMesh<float, Exec>;
template <class Exec> using DepthsPredicted = kokomo::models::MixtureOfDepthsPredicted<float, Exec>;
template <class Exec> using LoraMixer = kokomo::models::LoraMixer<float, Exec>;
template <class Exec> using MultiHead = kokomo::models::MultiHeadRouting<float, Exec>;
template <class Exec> using Repeated = kokomo::models::DrLlm<float, Exec>;
template <class Exec> using NormalizedKeys = kokomo::models::OmniMoeNormalized<float, Exec>;

} // namespace

int expert_selection() {
  int failed = !Run<ExpertSelection>::agrees("ExpertSelection", [](auto& p) {
    p.router.selector.tokens_per_sequence = p.balancer.tokens_per_sequence = p.adjust.tokens_per_sequence = 10;
    p.experts.intermediate = 16;
  });
  failed += !Run<DepthsPredicted>::agrees("DepthsPredicted", [](auto& p) {
    p.router.scorer.predictor.hidden = 16;
    p.router.selector.inference = kokomo::InferenceChoice::predicted;
    p.balancer.predicted = true;
    p.experts.intermediate = 16;
  });
  failed += !Run<NormalizedKeys>::agrees("NormalizedKeys", [](auto& p) {
    kokomo::models::configure_omni_moe_normalized(p, 2, 3);
    p.experts.count = 1;
    p.experts.shared.intermediate = 16;
  });
  failed += !Run<LoraMixer>::agrees("LoraMixer", [](auto& p) {
    p.experts.intermediate = 4;
    auto& preserve = std::get<2>(p.balancer.parts);
    preserve.coefficient = 0.5f;
    using Anchor = std::remove_cvref_t<decltype(preserve.anchor)>;
    using Exec = typename decltype(preserve.preserved)::execution_space;
    preserve.anchor = Anchor(kokomo::Allocator<Exec>(Exec{}), p.experts, {.hidden = 24, .weighted = 8});
  });
  failed += !Run<MultiHead>::agrees("MultiHead",
                                    [](auto& p) { kokomo::models::configure_multi_head_routing(p, 3, 2, 4, 3); });
  failed += !Run<Repeated>::agrees("Repeated",
                                   [](auto& p) {
                                     p.router.scorer.tokens_per_sequence = 10;
                                     p.router.scorer.inner.hidden = 16;
                                     p.experts.inner.intermediate = 16;
                                     p.balancer.labels =
                                         std::remove_cvref_t<decltype(p.balancer.labels)>("labels", 37); // zeros: skip
                                   },
                                   {.tokens = 37, .hidden = 24, .experts = 1});
  return failed;
}
