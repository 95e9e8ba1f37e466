// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <discipline/check.hpp>

#include <kokomo/combine/logit_add.hpp>
#include <kokomo/combine/primary_cross_attention.hpp>
#include <kokomo/experts/mixed.hpp>
#include <kokomo/experts/with_identity.hpp>
#include <kokomo/router/complemented.hpp>

using namespace kokomo;
using Exec = Kokkos::DefaultExecutionSpace;

TEST_CASE("discipline: experts of two kinds, a complement of the router, cross attention, bfloat16") {
  using Composition =
      Layer<Router<Complemented<>, TopK<>>, SoftmaxGate, NoBalancer,
            WithIdentity<MixedExperts<SwiGluExperts, ReluExperts>>, bfloat16, Exec, PrimaryCrossAttention>;
  Composition::Policies policies;
  policies.router = {.scorer = {.bias = true}, .selector = {.k = 3}};
  policies.experts = {
      .inner = {.parts = {SwiGluExperts{.intermediate = 9}, {.intermediate = 5, .bias = true}}, .count = {3, 5}},
      .identity = 1};
  policies.combine = {.width = 6, .heads = 2, .weighted = true};
  discipline::check<Composition>(policies, 33, 5);
}

TEST_CASE("discipline: experts of two kinds that sum up their rows, logits of both parts added") {
  using Composition = Layer<Router<Complemented<>, TopK<>>, SoftmaxGate, NoBalancer,
                            MixedExperts<SwiGluExperts, ReluExperts>, float, Exec, LogitAdd>;
  Composition::Policies policies;
  policies.router.selector.k = 3;
  policies.experts = {.parts = {SwiGluExperts{.intermediate = 9, .save = Save::inputs}, {.intermediate = 5}},
                      .count = {3, 5}};
  discipline::check<Composition>(policies);
}
