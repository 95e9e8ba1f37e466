// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <kokomo/models/balanced_training.hpp>
#include <kokomo/models/moe_plus_plus.hpp>

namespace balanced_training_test {

using namespace kokomo;

/// The composition holds together with its published balance. What it computes, its policies' tests say.
template <class Layer> Layer made(typename Layer::Balancer const& balancer, Capacity const& capacity = {.factor = 1}) {
  models::Description d;
  d.hidden = 6, d.intermediate = 3, d.experts = 8, d.top_k = 2;
  d.groups = 4, d.allowed_groups = 2, d.shared = 1, d.shared_intermediate = 3, d.identity_experts = 2;
  auto policies = models::policies_for<Layer>(d);
  policies.balancer = balancer;
  if constexpr (Layer::has_capacity) policies.capacity = capacity;
  return Layer(d.shape(16), policies);
}

TEST_CASE("presets of balanced training can be made") {
  made<models::DeepseekMoe<>>(models::deepseek_moe_balance(1e-2f, 1e-3f, 2, 4));
  auto const v2 = models::deepseek_v2_balance(1e-2f, 1e-3f, 1e-3f, 2, 4, 2);
  made<models::DeepseekV2Training<>>(v2);
  auto const dropping = made<models::DeepseekV2Dropping<>>(v2, models::deepseek_v2_capacity(4));
  CHECK(dropping.policies().capacity.limit(dropping.sizes()) == 16 * 2 / 4); // of a device
  made<models::DeepseekV3Training<>>(models::deepseek_v3_balance(2, 8));
  made<models::DeepseekV4Training<>>(models::deepseek_v4_balance(2, 8));
  made<models::MixtralTraining<>>(transformers_loss(1e-3f, 2));
  made<models::GptOssTraining<>>(transformers_loss(1e-3f, 2));
  CHECK(made<models::LongcatFlashTraining<>>(models::longcat_balance(0.1f, 1e-2f, 1.5f, 2, 4)).sizes().experts == 10);
  made<models::SimBal<models::Mixtral<>>>({.coefficient = 0.1f});
}

TEST_CASE("MoE++ in training: places tau : 1") {
  using Layer = models::MoePlusPlusTraining<>;
  Layer::Policies policies;
  policies.experts.inner.inner.intermediate = 3;
  models::configure_moe_plus_plus(policies, 2, 8, false);
  models::configure_moe_plus_plus_training(policies, 0.5f, 1e-2f, 1, 8);
  Layer const layer({.tokens = 32, .hidden = 4, .experts = 4}, policies); // 4 with weights, 4 without
  auto const& capacity = layer.policies().capacity;
  CHECK(capacity.limit(layer.sizes()) == 6);                         // ceil(32 * 2 * 0.5 / (0.5 * 4 + 4))
  CHECK(capacity.limit(layer.sizes(), Mode::training, false) == 11); // ceil(64 / 6)
  policies.capacity.devices = 3;
  REQUIRE_THROWS_AS(Layer({.tokens = 32, .hidden = 4, .experts = 4}, policies), Error);
}

} // namespace balanced_training_test
