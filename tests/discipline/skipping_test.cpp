// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <discipline/check.hpp>

#include <kokomo/models/dr_llm.hpp>
#include <kokomo/models/moe_plus_plus.hpp>

using namespace kokomo;

using Host = Kokkos::DefaultExecutionSpace;

TEST_CASE("discipline: constant, copying and zero experts") {
  using Composition = models::MoePlusPlus<float, Host>;
  Composition::Policies policies;
  models::configure_moe_plus_plus(policies, 2, 16, false);
  policies.experts.inner.inner.intermediate = 8;
  discipline::check<Composition>(policies);
}

TEST_CASE("discipline: a block that is skipped or repeated, labels") {
  using Composition = models::DrLlm<float, Host>;
  Composition::Policies policies;
  policies.router.scorer = {.tokens_per_sequence = 7, .windows = 3, .inner = {.hidden = 8, .biases = true}};
  policies.experts.inner.intermediate = 8;
  policies.balancer.labels = OwnedVector<index_t, Host>("labels", 40);
  discipline::check<Composition>(policies, 33, 0, 1);
}
