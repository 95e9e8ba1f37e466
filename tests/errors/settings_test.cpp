// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <errors/expect.hpp>
#include <support/catch.hpp>

#include <kokomo/balancer/balancers.hpp>
#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/selection_bias.hpp>
#include <kokomo/capacity/capacity.hpp>
#include <kokomo/combine/normalized_sum.hpp>
#include <kokomo/experts/quantized.hpp>
#include <kokomo/experts/row_norm.hpp>
#include <kokomo/experts/with_identity.hpp>
#include <kokomo/gate/joint.hpp>
#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/gate/sparse_mixer.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/expert_choice.hpp>
#include <kokomo/router/given.hpp>
#include <kokomo/router/group_limited_top_k.hpp>
#include <kokomo/router/hash.hpp>
#include <kokomo/router/mlp_scorer.hpp>
#include <kokomo/router/normalized_scorer.hpp>
#include <kokomo/router/product_key_scorer.hpp>
#include <kokomo/router/self_healing.hpp>
#include <kokomo/router/top_2.hpp>
#include <kokomo/space/latent.hpp>
#include <kokomo/space/normalized_input.hpp>

#include <limits>

namespace settings_test {

using namespace kokomo;
using errors::expect_error, errors::expect_error_of;

namespace {

using Default = Layer<>;
using Exec = Kokkos::DefaultExecutionSpace;
template <class Selector> using Selects = Layer<Router<LinearScorer, Selector>>;
template <class Gate> using Gates = Layer<Router<LinearScorer, TopK<>>, Gate>;
template <class Balancer> using Balances = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, Balancer>;
template <class Experts> using Computes = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, Experts>;
template <class Slot>
using Fills = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, float, Exec, Slot>;

template <class Experts> void give_size(Experts& experts) {
  if constexpr (requires { experts.intermediate; }) experts.intermediate = 3;
  if constexpr (requires { experts.inner; }) give_size(experts.inner);
  if constexpr (requires { experts.routed; }) give_size(experts.routed), give_size(experts.shared);
}

/// Settings that make sense.
template <class LayerT> struct Settings {
  Shape shape;
  typename LayerT::Policies policies;

  Settings() {
    shape.tokens = 8;
    shape.hidden = 6;
    shape.experts = 4;
    give_size(policies.experts);
    if constexpr (requires { policies.capacity.places; }) policies.capacity.places = 2;
    if constexpr (requires { policies.space.size; }) policies.space.size = 2;
    if constexpr (requires { policies.router.scorer.state_size; }) policies.router.scorer.state_size = 5;
    if constexpr (requires { policies.router.selector.vocabulary; }) policies.router.selector.vocabulary = 9;
    if constexpr (requires { policies.router.selector.allowed_groups; })
      policies.router.selector.k = policies.router.selector.groups = policies.router.selector.allowed_groups = 2;
  }
  static void make_layer(void const* settings) {
    auto const& self = *static_cast<Settings const*>(settings);
    LayerT(self.shape, self.policies);
  }
};

void require_accepted(void (*make_layer)(void const*), void const* settings) {
  REQUIRE_NOTHROW(make_layer(settings));
}

/// The same but for what `change` does to them.
template <class LayerT, class F> void refuses(int id, F const& change, std::initializer_list<std::string> parts) {
  Settings<LayerT> settings;
  require_accepted(&Settings<LayerT>::make_layer, &settings);
  change(settings.shape, settings.policies);
  expect_error_of(id, &Settings<LayerT>::make_layer, &settings, parts);
}

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

} // namespace

TEST_CASE("101: a size that is no size") {
  refuses<Default>(101, [](auto& shape, auto&) { shape.tokens = -1; }, {"shape.tokens = -1", "expected >= 0"});
  refuses<Default>(101, [](auto& shape, auto&) { shape.hidden = 0; }, {"shape.hidden = 0", "expected >= 1"});
  refuses<Default>(101, [](auto& shape, auto&) { shape.hidden = -7; }, {"shape.hidden = -7"});
  refuses<Default>(101, [](auto& shape, auto&) { shape.router_hidden = -1; }, {"shape.router_hidden = -1"});
  refuses<Default>(101, [](auto& shape, auto&) { shape.experts = 0; }, {"shape.experts = 0", "expected 1 .. 2^30"});
  refuses<Default>(101, [](auto& shape, auto&) { shape.experts = -4; }, {"shape.experts = -4"});
  refuses<Default>(101, [](auto& shape, auto&) { shape.experts = offset_t(1) << 31; }, {"shape.experts = 2147483648"});
  refuses<Default>(101, [](auto&, auto& p) { p.experts.intermediate = 0; }, {"intermediate size = 0", "expected >= 1"});
  refuses<Default>(101, [](auto&, auto& p) { p.experts.intermediate = -2; }, {"intermediate size = -2"});
  using Identity = Computes<WithIdentity<SwiGluExperts>>;
  refuses<Identity>(101, [](auto&, auto& p) { p.experts.identity = -5; }, {"identity experts = -5", "expected >= 0"});
  refuses<Identity>(101, [](auto&, auto& p) { p.experts.zero = -1; }, {"zero experts = -1", "expected >= 0"});
  using Shared = Computes<WithShared<SwiGluExperts>>;
  refuses<Shared>(101, [](auto&, auto& p) { p.experts.count = 0; }, {"shared experts = 0", "expected >= 1"});
  refuses<Shared>(101, [](auto&, auto& p) { p.experts.count = -3; }, {"shared experts = -3"});
  refuses<Shared>(101, [](auto&, auto& p) { p.experts.shared.intermediate = 0; }, {"intermediate size = 0"});
  refuses<Fills<Latent>>(101, [](auto&, auto& p) { p.space.size = 0; }, {"latent size = 0", "expected >= 1"});
  using Mlp = Layer<Router<MlpScorer, TopK<>>>;
  refuses<Mlp>(101, [](auto&, auto& p) { p.router.scorer.state_size = 0; }, {"state_size = 0", "expected >= 1"});
  using Keys = Layer<Router<ProductKeyScorer, TopK<>>>;
  refuses<Keys>(101, [](auto& shape, auto&) { shape.experts = 8; }, {"for 8 experts", "expected a square number"});
}

TEST_CASE("102: experts a token") {
  for (int k : {0, -1, 5, 1 << 30}) {
    std::string const value = "k = " + std::to_string(k);
    refuses<Default>(102, [&](auto&, auto& p) { p.router.selector.k = k; }, {value, "expected 1 <= k <= 4"});
    refuses<Selects<HashTable>>(102, [&](auto&, auto& p) { p.router.selector.k = k; }, {value, "expected 1 <= k <= 4"});
    refuses<Selects<GroupLimitedTopK<>>>(102, [&](auto&, auto& p) { p.router.selector.k = k; },
                                         {value, "expected 1 <= k <= 4"});
    if (k <= 0) refuses<Selects<Given>>(102, [&](auto&, auto& p) { p.router.selector.k = k; }, {value, "k >= 1"});
    refuses<Balances<LoadBalancingLoss>>(102, [&](auto&, auto& p) { p.balancer.top_k = k; },
                                         {"top_k = " + std::to_string(k), "expected 1 <= top_k <= 4"});
  }
  refuses<Layer<Router<LinearScorer, TopK<4>>>>(102, [](auto& shape, auto&) { shape.experts = 3; },
                                                {"k = 4", "expected 1 <= k <= 3"});
  refuses<Selects<Top2>>(102, [](auto& shape, auto&) { shape.experts = 1; }, {"k = 2", "1 <= k <= 1"});
  refuses<Layer<Router<LinearScorer, SparseMixer>, SparseMixerGate>>(102, [](auto& shape, auto&) { shape.experts = 1; },
                                                                     {"k = 2", "1 <= k <= 1"});
  using Three = Layer<Router<LinearScorer, Given>, SparseMixerGate>; // SparseMixer's gate is for two
  Settings<Three> three;
  three.policies.router.selector.k = 3;
  expect_error_of(102, &Settings<Three>::make_layer, &three, {"two picks a token", "has 3"});
}

TEST_CASE("103: groups") {
  using Grouped = Selects<GroupLimitedTopK<>>;
  refuses<Grouped>(103, [](auto&, auto& p) { p.router.selector.groups = 3; }, {"groups = 3", "divisor of the 4"});
  refuses<Grouped>(103, [](auto&, auto& p) { p.router.selector.groups = 0; }, {"groups = 0", "divisor of the 4"});
  refuses<Grouped>(103, [](auto&, auto& p) { p.router.selector.allowed_groups = 3; },
                   {"allowed_groups = 3", "expected 1 <= allowed_groups <= groups = 2"});
  refuses<Grouped>(103, [](auto&, auto& p) { p.router.selector.allowed_groups = 0; }, {"allowed_groups = 0"});
  refuses<Grouped>(103, [](auto&, auto& p) { p.router.selector.k = 3, p.router.selector.allowed_groups = 1; },
                   {"k = 3", "1 groups of 2 experts"});
  using Biased = Layer<Router<LinearScorer, GroupLimitedTopK<>>, SigmoidGate, Balancers<SelectionBias>>;
  refuses<Biased>(103, [](auto&, auto& p) { p.router.selector.outside = OutsideRank::zero; },
                  {"outside the allowed groups rank 0", "expected OutsideRank::minus_infinity"});
  Settings<Biased> frozen; // biases that stay, as a file has them
  frozen.policies.router.selector.outside = OutsideRank::zero;
  std::get<0>(frozen.policies.balancer.parts).rate = 0;
  require_accepted(&Settings<Biased>::make_layer, &frozen);
}

TEST_CASE("104: a table without rows") {
  refuses<Selects<HashTable>>(104, [](auto&, auto& p) { p.router.selector.vocabulary = 0; },
                              {"vocabulary = 0", "expected at least 1"});
  refuses<Selects<HashTable>>(104, [](auto&, auto& p) { p.router.selector.vocabulary = -9; }, {"vocabulary = -9"});
}

TEST_CASE("105: more entries than ids") {
  refuses<Default>(105, [](auto& shape, auto&) { shape.tokens = offset_t(1) << 30; },
                   {"shape.tokens = 1073741824", "2 entries", "at most 2^30"});
  refuses<Default>(105, [](auto& shape, auto&) { shape.tokens = std::numeric_limits<offset_t>::max(); },
                   {"9223372036854775807"});
}

TEST_CASE("106: a number outside of its range") {
  refuses<Default>(106, [](auto&, auto& p) { p.router.scorer.softcap = -2; }, {"softcap = -2", "expected >= 0"});
  refuses<Default>(106, [](auto&, auto& p) { p.router.scorer.softcap = not_a_number; }, {"softcap = nan"});
  refuses<Default>(106, [](auto&, auto& p) { p.gate.epsilon = -1; }, {"ScoreGate epsilon = -1", "expected >= 0"});
  refuses<Default>(106, [](auto&, auto& p) { p.gate.p = 0.5; }, {"ScoreGate p = 0.5", "expected >= 1"});
  refuses<Layer<Router<NormalizedScorer, TopK<>>>>(106, [](auto&, auto& p) { p.router.scorer.epsilon = -1; },
                                                   {"NormalizedScorer epsilon = -1", ">= 0"});
  refuses<Layer<Router<NormalizedScorer, TopK<>>>>(106, [](auto&, auto& p) { p.router.scorer.linear.softcap = -1; },
                                                   {"softcap = -1"});
  refuses<Gates<SelectedSoftmaxGate>>(106, [](auto&, auto& p) { p.gate.scale = 0; },
                                      {"SelectedSoftmaxGate scale = 0", "expected another value"});
  refuses<Layer<Router<MlpScorer, TopK<>>>>(106, [](auto&, auto& p) { p.router.scorer.epsilon = -1; },
                                            {"MlpScorer epsilon = -1", ">= 0"});
  refuses<Layer<Router<ProductKeyScorer, TopK<>>>>(106, [](auto&, auto& p) { p.router.scorer.linear.softcap = -1; },
                                                   {"softcap = -1"});
  using Sparse = Layer<Router<LinearScorer, SparseMixer>, SparseMixerGate>;
  refuses<Sparse>(106, [](auto&, auto& p) { p.router.selector.epsilon = -1; }, {"SparseMixer epsilon = -1", ">= 0"});
  refuses<Sparse>(106, [](auto&, auto& p) { p.gate.epsilon = -1; }, {"SparseMixerGate epsilon = -1", ">= 0"});
  refuses<Computes<ClampedSwiGluExperts>>(106, [](auto&, auto& p) { p.experts.activation.up_limit = -7; },
                                          {"up_limit = -7", "expected >= 0"});
  refuses<Computes<SoftcappedSwiGluExperts>>(106, [](auto&, auto& p) { p.experts.activation.gate_cap = 0; },
                                             {"gate_cap = 0", "expected > 0"});
  refuses<Computes<SoftcappedSwiGluExperts>>(106, [](auto&, auto& p) { p.experts.activation.up_cap = -1; },
                                             {"up_cap = -1", "expected > 0"});
  refuses<Computes<RowNorm<SwiGluExperts>>>(106, [](auto&, auto& p) { p.experts.epsilon = -1; },
                                            {"RowNorm epsilon = -1", ">= 0"});
  refuses<Fills<NormalizedSum>>(106, [](auto&, auto& p) { p.combine.epsilon = -1; },
                                {"NormalizedSum epsilon = -1", ">= 0"});
  refuses<Fills<Latent>>(106, [](auto&, auto& p) { p.space.epsilon = -1; }, {"Latent epsilon = -1", ">= 0"});
  refuses<Fills<NormalizedInput>>(106, [](auto&, auto& p) { p.space.epsilon = -1; },
                                  {"NormalizedInput epsilon = -1", ">= 0"});
  refuses<Balances<LoadBalancingLoss>>(106, [](auto&, auto& p) { p.balancer.tokens_per_sequence = -1; },
                                       {"tokens_per_sequence = -1", "expected >= 0"});
  refuses<Balances<SelectionBias>>(106, [](auto&, auto& p) { p.balancer.rate = -1; }, {"rate = -1", ">= 0"});
  refuses<Balances<Balancers<SelectionBias>>>(106, [](auto&, auto& p) { std::get<0>(p.balancer.parts).rate = -1; },
                                              {"rate = -1"});
}

TEST_CASE("107: shared experts that do not fit") {
  refuses<Computes<WithShared<SwiGluExperts, SigmoidShare>>>(107, [](auto&, auto& p) { p.experts.count = 2; },
                                                             {"SigmoidShare gates one shared expert, not 2"});
  expect_error(107, [] { JointSigmoidGate{}.check(Sizes{}); }, {"JointSigmoidGate", "the layer has none"});
}

TEST_CASE("108: capacity without a size") {
  using Limited = Fills<Capacity>;
  refuses<Limited>(108, [](auto&, auto& p) { p.capacity.places = 0; }, {"Capacity has no size", "a positive value"});
  refuses<Limited>(108, [](auto&, auto& p) { p.capacity.places = -1; }, {"places = -1", "must not be negative"});
  refuses<Limited>(108, [](auto&, auto& p) { p.capacity.factor = -1; }, {"factor = -1"});
  refuses<Limited>(108, [](auto&, auto& p) { p.capacity.fraction = -1; }, {"fraction = -1"});
  refuses<Limited>(108, [](auto&, auto& p) { p.capacity.minimum = -1; }, {"minimum = -1"});
  refuses<Limited>(108, [](auto&, auto& p) { p.capacity.tokens_per_sequence = -1; }, {"tokens_per_sequence = -1"});
  refuses<Limited>(108, [](auto&, auto& p) { p.capacity.factor = not_a_number; }, {"factor = nan"});
}

TEST_CASE("109: quantised experts and their format") {
  using Float8 = QuantizedExperts<SwiGlu, Fp8Blocks>;
  expect_error(109, [] { Float8{.intermediate = 3, .gate_up = GateUp::interleaved}.check(Sizes{}); },
               {"gate_up = interleaved", "concatenated or separate", "128 rows"});
  expect_error(109, [] { Float8{.intermediate = 3, .activations = Activations::int8}.check(Sizes{}); },
               {"activations = int8", "expected as_stored"});
}

TEST_CASE("110: a decoder's layer without a causal form in inference") {
  using Chooses = Selects<ExpertChoice>;
  Settings<Chooses> settings;
  REQUIRE_FALSE(Chooses::causal);
  Chooses const encoder(settings.shape, settings.policies);
  REQUIRE_FALSE(encoder.causal_in(Mode::inference));
  expect_error(110, [&] { encoder.require_causal_inference(); }, {"later tokens", "InferenceChoice::above_threshold"});
  settings.policies.router.selector.inference = InferenceChoice::above_threshold;
  Chooses const decoder(settings.shape, settings.policies);
  REQUIRE_NOTHROW(decoder.require_causal_inference());
  REQUIRE_FALSE(decoder.causal_in(Mode::training));

  // through decorators and packs of policies
  using Wrapped = Layer<Router<LinearScorer, SelfHealing<ExpertChoice>>, SoftmaxGate, Balancers<NoBalancer>>;
  Settings<Wrapped> wrapped;
  REQUIRE_FALSE(Wrapped(wrapped.shape, wrapped.policies).causal_in(Mode::inference));
  wrapped.policies.router.selector.inner.inference = InferenceChoice::above_threshold;
  REQUIRE(Wrapped(wrapped.shape, wrapped.policies).causal_in(Mode::inference));
  REQUIRE(
      Default({.tokens = 1, .hidden = 1, .experts = 2}, {.experts = {.intermediate = 1}}).causal_in(Mode::training));
}

} // namespace settings_test
