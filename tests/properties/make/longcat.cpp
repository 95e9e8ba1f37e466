// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compositions.hpp>
#include <properties/machine_of.hpp>

#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/experts/with_identity.hpp>

namespace properties {

using namespace kokomo;

/// LongCat: experts, and identity experts behind them; one zero expert for its sake.
template <class T> std::unique_ptr<Machine> make::longcat(Setup const& setup) {
  using Layer = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, SelectionBias, WithIdentity<SwiGluExperts>, T>;
  typename Layer::Policies policies;
  policies.router.selector.k = setup.k;
  policies.gate.scale = 6;
  policies.balancer.rate = setup.bias_rate;
  policies.balancer.update = BiasUpdate::proportional;
  policies.experts.inner.intermediate = 8;
  policies.experts.identity = 3;
  policies.experts.zero = 1;
  return make_machine<Layer>(setup, policies);
}
template std::unique_ptr<Machine> make::longcat<float>(Setup const&);
template std::unique_ptr<Machine> make::longcat<double>(Setup const&);

} // namespace properties
