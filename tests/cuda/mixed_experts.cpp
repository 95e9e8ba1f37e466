// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/duo_llm.hpp>
#include <kokomo/models/fusion_route.hpp>
#include <kokomo/models/mixture_of_thoughts.hpp>

namespace {

template <class Exec> using DuoLlm = kokomo::models::DuoLlm<float, Exec>;
template <class Exec> using FusionRoute = kokomo::models::FusionRoute<float, Exec>;
template <class Exec> using FusionHead = kokomo::models::FusionHead<float, Exec>;
template <class Exec> using MixtureOfThoughts = kokomo::models::MixtureOfThoughts<float, Exec>;

} // namespace

int mixed_experts() {
  kokomo::Shape const shape{.tokens = 37, .hidden = 24, .experts = 2};
  int failed = !Run<DuoLlm>::agrees(
      "DuoLlm", [](auto& p) { kokomo::models::configure_duo_llm(p, 32, 8, true); }, shape);
  failed += !Run<MixtureOfThoughts>::agrees("MixtureOfThoughts", [](auto& p) {
    p.router.scorer.tokens_per_sequence = 10;
    p.router.scorer.inner.hidden = 16;
    p.router.scorer.inner.biases = true;
    p.router.selector.k = 3;
    p.experts.intermediate = 16;
    p.combine = {.width = 8, .heads = 2, .weighted = true};
  });
  failed += !Run<FusionRoute>::agrees("FusionRoute", [](auto& p) { p.experts.intermediate = 16; });
  failed += !Run<FusionHead>::agrees("FusionHead", [](auto& p) {
    auto& outputs = p.experts.routed.outputs;
    outputs = std::decay_t<decltype(outputs)>("outputs", 8, 37, 24);
    Run<FusionHead>::fill(outputs, 5);
    p.balancer.outputs = outputs;
    p.balancer.targets = std::decay_t<decltype(p.balancer.targets)>("targets", 37);
  });
  return failed;
}
