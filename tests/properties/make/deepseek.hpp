// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_PROPERTIES_MAKE_DEEPSEEK_HPP
#define KOKOMO_TESTS_PROPERTIES_MAKE_DEEPSEEK_HPP

#include <properties/compositions.hpp>
#include <properties/machine_of.hpp>

#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/router/group_limited_top_k.hpp>

namespace properties {

using namespace kokomo;

/// DeepSeek-V3: grouped sigmoid top-k with a selection bias, and a shared expert.
template <class T> std::unique_ptr<Machine> make::deepseek(Setup const& setup) {
  using Layer = Layer<Router<LinearScorer, GroupLimitedTopK<>>, NormalizedSigmoidGate, SelectionBias,
                      WithShared<SwiGluExperts>, T>;
  int const groups = setup.experts % 4 == 0 ? 4 : 1;
  typename Layer::Policies policies;
  policies.router.selector.k = setup.k;
  policies.router.selector.groups = groups;
  policies.router.selector.allowed_groups = (groups + 1) / 2;
  policies.gate.scale = 2.5f;
  policies.balancer.rate = setup.bias_rate;
  policies.experts.routed.intermediate = 10;
  policies.experts.shared.intermediate = 7;
  return make_machine<Layer>(setup, policies);
}

} // namespace properties

#endif
