// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/placement/expert_map.hpp>

namespace {

template <class Exec>
using Tied = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate,
                           kokomo::NoBalancer, kokomo::SwiGluExperts, float, Exec, kokomo::TiedExperts>;

} // namespace

int placement() {
  return !Run<Tied>::agrees("TiedExperts", [](auto& p) {
    p.router.selector.k = 3;
    p.experts.intermediate = 16;
    p.placement.stored = 3;
  });
}
