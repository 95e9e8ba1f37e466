// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/cache/expert_store.hpp>
#include <kokomo/models/placed.hpp>

namespace {

template <class Exec>
using Block = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate,
                            kokomo::NoBalancer, kokomo::SwiGluExperts, float, Exec>;
template <class Exec> using Tied = kokomo::models::McSmoe<Block<Exec>>;
template <class Exec> using Compressed = kokomo::models::CompressedMcSmoe<Block<Exec>>;

} // namespace

template class kokomo::cache::ExpertStore<kokomo::models::Cached<Block<Kokkos::Cuda>>>;

int placement() {
  bool const tied = Run<Tied>::agrees("TiedExperts", [](auto& p) {
    p.router.selector.k = 3;
    p.experts.intermediate = 16;
    p.placement.stored = 3;
  });
  bool const compressed = Run<Compressed>::agrees("LowRankPlusRowSparse", [](auto& p) {
    p.router.selector.k = 3;
    p.experts.intermediate = 16;
    p.experts.rank = 4;
    p.experts.kept_hidden = 3;
    p.experts.kept_out = 2;
    p.placement.stored = 3;
  });
  return !tied + !compressed;
}
