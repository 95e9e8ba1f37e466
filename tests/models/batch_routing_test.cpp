// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <kokomo/models/batch_routing.hpp>

namespace batch_routing_test {

using namespace kokomo;

/// The composition holds together, and a Description fills its settings. What it computes, its policies' tests say.
template <class Layer> Layer made() {
  models::Description d;
  d.hidden = 6, d.intermediate = 3, d.experts = 4, d.top_k = 2;
  d.capacity = 5, d.tokens_per_sequence = 8;
  Layer const layer(d.shape(16), models::policies_for<Layer>(d));
  CHECK(layer.policies().experts.intermediate == 3);
  CHECK(layer.sizes().tokens == 16);
  return layer;
}

TEST_CASE("presets of what decides over a batch can be made") {
  auto const choice = made<models::ExpertChoiceMoe<>>();
  CHECK(choice.sizes().entries == 2 * 4 * 5); // sequences, experts, places
  made<models::ExpertChoiceNormalized<>>();
  CHECK(made<models::SinkhornMegatronTopK<>>().policies().router.selector.k == 2);
  made<models::SinkhornMegatron<>>();
  made<models::SelectiveSinkhornRouting<>>();
  made<models::SelectiveSinkhornNoisy<>>();
  CHECK(made<models::BaseLayer<>>().sizes().per_token == 1);
  CHECK(made<models::GShard<>>().policies().capacity.places == 5);
  CHECK(made<models::VMoe<>>().sizes().columns == 12); // noisy, clean, deviation
  made<models::BipMoe<>>();
  made<models::MixtureOfDepths<>>();
  static_assert(!models::ExpertChoiceMoe<>::causal && !models::SinkhornMegatron<>::causal &&
                !models::BaseLayer<>::causal && !models::BipMoe<>::causal && !models::MixtureOfDepths<>::causal);
}

} // namespace batch_routing_test
