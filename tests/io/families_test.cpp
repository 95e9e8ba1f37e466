// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <kokomo/io/families.hpp>

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace families_test {

// Expected values are written by hand from the formulas in docs/families/, that is from what transformers 5.23.0
// computes and from the names that its conversion_mapping.py reads.

using namespace kokomo;
using io::Config;

namespace {

/// A small configuration of each family that the project carries a checkpoint of, as published: the keys that matter.
struct Published {
  char const* text;
  char const* model;
  std::vector<int> sparse;
  std::int64_t intermediate, experts;
  int top_k;
  Normalize normalize;
  float epsilon;
  bool round_logits, round_weights;
};

char const* const mixtral = R"({"model_type": "mixtral", "hidden_act": "silu", "hidden_size": 48,
  "intermediate_size": 40, "num_experts_per_tok": 2, "num_hidden_layers": 3, "num_local_experts": 10,
  "router_jitter_noise": 0.0})";
char const* const qwen2_moe = R"({"model_type": "qwen2_moe", "decoder_sparse_step": 1, "hidden_act": "silu",
  "hidden_size": 48, "intermediate_size": 80, "mlp_only_layers": [], "moe_intermediate_size": 40,
  "norm_topk_prob": false, "num_experts": 10, "num_experts_per_tok": 3, "num_hidden_layers": 3,
  "shared_expert_intermediate_size": 48})";
char const* const qwen3_moe = R"({"model_type": "qwen3_moe", "decoder_sparse_step": 1, "hidden_act": "silu",
  "hidden_size": 48, "intermediate_size": 80, "mlp_only_layers": [0], "moe_intermediate_size": 40,
  "norm_topk_prob": true, "num_experts_per_tok": 3, "num_hidden_layers": 3, "num_local_experts": 10})";
char const* const olmoe = R"({"model_type": "olmoe", "hidden_act": "silu", "hidden_size": 48, "intermediate_size": 40,
  "norm_topk_prob": false, "num_experts": 10, "num_experts_per_tok": 4, "num_hidden_layers": 3})";
char const* const phimoe = R"({"model_type": "phimoe", "hidden_act": "silu", "hidden_size": 48,
  "intermediate_size": 40, "num_experts_per_tok": 2, "num_hidden_layers": 3, "num_local_experts": 10,
  "router_jitter_noise": 0.02})";
char const* const granitemoe = R"({"model_type": "granitemoe", "hidden_act": "silu", "hidden_size": 48,
  "intermediate_size": 40, "num_experts_per_tok": 2, "num_hidden_layers": 3, "num_local_experts": 10})";
char const* const gpt_oss = R"({"model_type": "gpt_oss", "hidden_act": "silu", "hidden_size": 48,
  "intermediate_size": 40, "num_experts_per_tok": 4, "num_hidden_layers": 3, "num_local_experts": 10,
  "swiglu_limit": 5.0})";
char const* const deepseek_v3 = R"({"model_type": "deepseek_v3", "first_k_dense_replace": 1, "hidden_act": "silu",
  "hidden_size": 48, "intermediate_size": 80, "moe_intermediate_size": 40, "n_group": 3, "n_routed_experts": 12,
  "n_shared_experts": 2, "norm_topk_prob": true, "num_experts_per_tok": 4, "num_hidden_layers": 3,
  "routed_scaling_factor": 2.5, "topk_group": 2})";

Config config(std::string_view text) {
  return Config::parse(text, "config.json");
}
models::Description describe(char const* text, int layer = 1) {
  auto const c = config(text);
  return io::family(c).describe(c, layer);
}
std::string name(char const* text, int layer, std::string_view role) {
  auto const c = config(text);
  return io::tensor_name(io::family(c), c, layer, role);
}
/// `text` with a key set, or removed where `value` is empty.
std::string with(char const* text, std::string const& key, std::string const& value) {
  auto json = nlohmann::json::parse(text);
  if (value.empty())
    json.erase(key);
  else
    json[key] = nlohmann::json::parse(value);
  return json.dump();
}
int error_of(std::string const& text, int layer = 1) {
  try {
    auto const c = config(text);
    (void)io::family(c).describe(c, layer);
    (void)io::sparse_layers(c);
  } catch (Error const& error) {
    return error.id();
  }
  return 0;
}

} // namespace

TEST_CASE("a configuration gives the composition, its sizes, its normalisation and its roundings") {
  auto const none = Normalize::none, sum = Normalize::sum, plus = Normalize::sum_plus_epsilon;
  Published const published[] = {
      {mixtral, "Mixtral", {0, 1, 2}, 40, 10, 2, sum, 0, true, false},
      {qwen2_moe, "Qwen2Moe", {0, 1, 2}, 40, 10, 3, none, 0, true, true},
      {qwen3_moe, "Mixtral", {1, 2}, 40, 10, 3, sum, 0, true, true},
      {olmoe, "Mixtral", {0, 1, 2}, 40, 10, 4, none, 0, true, true},
      {phimoe, "PhiMoe", {0, 1, 2}, 40, 10, 2, none, 0, true, true},
      {granitemoe, "GraniteMoe", {0, 1, 2}, 40, 10, 2, none, 0, true, true},
      {gpt_oss, "GptOss", {0, 1, 2}, 40, 10, 4, none, 0, true, true},
      {deepseek_v3, "DeepseekV3", {1, 2}, 40, 12, 4, plus, 1e-20f, false, false},
  };
  for (auto const& expected : published) {
    auto const c = config(expected.text);
    auto const& family = io::family(c);
    CAPTURE(std::string(family.model_type));
    auto const d = family.describe(c, 1);
    CHECK(family.model(c, 1) == expected.model);
    CHECK(io::sparse_layers(c) == expected.sparse);
    CHECK(family.layers(c) == 3);
    CHECK(d.hidden == 48);
    CHECK(d.intermediate == expected.intermediate);
    CHECK(d.experts == expected.experts);
    CHECK(d.top_k == expected.top_k);
    CHECK(d.activation == ActivationKind::silu);
    CHECK(d.normalize == expected.normalize);
    CHECK(d.normalize_epsilon == expected.epsilon);
    CHECK(d.round_logits == expected.round_logits);
    CHECK(d.round_weights == expected.round_weights);
    CHECK_FALSE(d.round_scores);
  }
}

TEST_CASE("what only one of the families with checkpoints has") {
  auto const qwen2 = describe(qwen2_moe);
  CHECK(qwen2.shared == 1);
  CHECK(qwen2.shared_intermediate == 48);
  CHECK(describe(mixtral).shared == 0);

  auto const gpt = describe(gpt_oss);
  CHECK((gpt.router_bias && gpt.expert_bias));
  CHECK(gpt.gate_up == GateUp::interleaved);
  CHECK(gpt.up_order == WeightOrder::in_out);
  CHECK(gpt.down_order == WeightOrder::in_out);
  CHECK(gpt.clamped.alpha == 1.702f); // transformers' default
  CHECK(gpt.clamped.gate_max == 5);
  CHECK(gpt.clamped.up_limit == 5);
  CHECK(gpt.clamped.up_offset == 1);
  CHECK(gpt.clamped.clamp == Clamp::before_activation);

  CHECK(describe(phimoe).sparse_mixer_epsilon == 0.02f);

  auto const deepseek = describe(deepseek_v3);
  CHECK(deepseek.groups == 3);
  CHECK(deepseek.allowed_groups == 2);
  CHECK(deepseek.group_score == GroupScore::top2_sum);
  CHECK(deepseek.outside == OutsideRank::minus_infinity);
  CHECK(deepseek.scale == 2.5f);
  CHECK(deepseek.routed_scale == 1);
  CHECK(deepseek.shared == 1);
  CHECK(deepseek.shared_intermediate == 80); // two of 40, as one
}

TEST_CASE("tensors have the names of published checkpoints") {
  CHECK(name(mixtral, 2, "router_weight") == "model.layers.2.block_sparse_moe.gate.weight");
  CHECK(name(mixtral, 2, "gate_proj.7") == "model.layers.2.block_sparse_moe.experts.7.w1.weight");
  CHECK(name(mixtral, 2, "up_proj.7") == "model.layers.2.block_sparse_moe.experts.7.w3.weight");
  CHECK(name(mixtral, 2, "down.7") == "model.layers.2.block_sparse_moe.experts.7.w2.weight");
  CHECK(name(qwen2_moe, 0, "router_weight") == "model.layers.0.mlp.gate.weight");
  CHECK(name(qwen2_moe, 0, "gate_proj.3") == "model.layers.0.mlp.experts.3.gate_proj.weight");
  CHECK(name(qwen2_moe, 0, "shared_down_proj") == "model.layers.0.mlp.shared_expert.down_proj.weight");
  CHECK(name(qwen2_moe, 0, "shared_expert_gate") == "model.layers.0.mlp.shared_expert_gate.weight");
  CHECK(name(qwen3_moe, 1, "down.12") == "model.layers.1.mlp.experts.12.down_proj.weight");
  CHECK(name(olmoe, 1, "up_proj.0") == "model.layers.1.mlp.experts.0.up_proj.weight");
  CHECK(name(phimoe, 0, "router_weight") == "model.layers.0.block_sparse_moe.gate.weight");
  CHECK(name(granitemoe, 0, "router_weight") == "model.layers.0.block_sparse_moe.router.layer.weight");
  CHECK(name(granitemoe, 0, "gate_up") == "model.layers.0.block_sparse_moe.input_linear.weight");
  CHECK(name(granitemoe, 0, "down") == "model.layers.0.block_sparse_moe.output_linear.weight");
  CHECK(name(gpt_oss, 1, "router_bias") == "model.layers.1.mlp.router.bias");
  CHECK(name(gpt_oss, 1, "gate_up") == "model.layers.1.mlp.experts.gate_up_proj");
  CHECK(name(gpt_oss, 1, "gate_up_bias") == "model.layers.1.mlp.experts.gate_up_proj_bias");
  CHECK(name(gpt_oss, 1, "down_bias") == "model.layers.1.mlp.experts.down_proj_bias");
  CHECK(name(deepseek_v3, 1, "selection_bias") == "model.layers.1.mlp.gate.e_score_correction_bias");
  CHECK(name(deepseek_v3, 1, "shared_up_proj") == "model.layers.1.mlp.shared_experts.up_proj.weight");
}

TEST_CASE("a role that a family does not have has no name") {
  for (auto const* role : {"router_bias", "selection_bias", "gate_up", "gate_proj", "down", "shared_gate_proj",
                           "shared_expert_gate", "gate_proj.", "gate_proj.x", "gate_proj.1.2", "router_weight.0", ""})
    CHECK(name(mixtral, 0, role).empty());
  for (auto const* role : {"gate_up.0", "gate_proj.0", "gate_proj", "up_proj", "down.0", "gate_bias"})
    CHECK(name(gpt_oss, 0, role).empty());
}

TEST_CASE("every family of the tables is complete") {
  std::set<std::string_view> seen;
  io::for_each_family([&](io::Family const& family) {
    CAPTURE(std::string(family.model_type));
    CHECK(seen.insert(family.model_type).second);
    CHECK(io::find_family(family.model_type) == &family);
    CHECK_FALSE(family.source.empty());
    CHECK(nlohmann::json::parse(family.defaults).is_object());
    CHECK(family.block != nullptr);
    CHECK(family.names.layer.find("{l}") != std::string_view::npos);
    CHECK(family.names.experts.name.find("{p}") != std::string_view::npos);
  });
  CHECK(seen.size() > 70);
}

TEST_CASE("a family says which of its layers are MoE blocks") {
  auto const layers = [](std::string const& text) { return io::sparse_layers(config(text)); };
  using L = std::vector<int>;
  CHECK(layers(with(qwen2_moe, "decoder_sparse_step", "2")) == L{1});
  CHECK(layers(with(qwen3_moe, "mlp_only_layers", "[0, 2]")) == L{1});
  CHECK(layers(with(deepseek_v3, "first_k_dense_replace", "3")).empty());
  CHECK(layers(with(deepseek_v3, "first_k_dense_replace", "")).empty()); // 3 by default
  CHECK(layers(with(deepseek_v3, "mlp_layer_types", R"(["sparse", "dense", "sparse"])")) == L{0, 2});
  CHECK(layers(R"({"model_type": "jamba", "num_hidden_layers": 6, "num_experts": 16})") == L{1, 3, 5});
  CHECK(layers(R"({"model_type": "ernie4_5_moe", "num_hidden_layers": 6, "moe_layer_start_index": 1,
                   "moe_layer_interval": 2, "moe_layer_end_index": 3})") == L{1, 3});
  CHECK(
      layers(R"({"model_type": "llama4", "text_config": {"num_hidden_layers": 4, "interleave_moe_layer_step": 2}})") ==
      L{1, 3});
  CHECK(layers(R"({"model_type": "nemotron_h", "hybrid_override_pattern": "ME*E-"})") == L{1, 3});
  CHECK(layers(R"({"model_type": "step3p7", "text_config": {"num_hidden_layers": 12, "moe_layers_enum": "1, 11"}})") ==
        L{1, 11});
  CHECK(layers(R"({"model_type": "gemma4", "text_config": {"num_hidden_layers": 2}})").empty());
  // The encoder's sparse step is 6 / 3, its decoder's 4 / 2; layers 6 to 9 are the decoder's.
  char const* const switch_base = R"({"model_type": "switch_transformers", "d_model": 8, "d_ff": 16, "num_experts": 4,
    "num_layers": 6, "num_decoder_layers": 4, "num_sparse_decoder_layers": 2})";
  CHECK(layers(switch_base) == L{1, 3, 5, 7, 9});
  CHECK(name(switch_base, 5, "up_proj.2") == "encoder.block.5.layer.1.mlp.experts.expert_2.wi.weight");
  CHECK(name(switch_base, 7, "down.2") == "decoder.block.1.layer.2.mlp.experts.expert_2.wo.weight");
}

TEST_CASE("the composition follows the configuration") {
  auto const model = [](std::string const& text, int layer = 1) {
    auto const c = config(text);
    return std::string(io::family(c).model(c, layer));
  };
  CHECK(model(with(deepseek_v3, "n_shared_experts", "0")) == "DeepseekV3WithoutShared");
  CHECK(model(with(deepseek_v3, "model_type", R"("axk1")")) == "Axk1");
  CHECK(model(with(deepseek_v3, "model_type", R"("mimo_v2_flash")")) == "DeepseekV3WithoutShared");
  char const* const deepseek_v4 = R"({"model_type": "deepseek_v4", "hidden_size": 8, "moe_intermediate_size": 4,
    "n_routed_experts": 6, "num_experts_per_tok": 2, "num_hidden_layers": 4, "num_hash_layers": 1, "vocab_size": 50})";
  CHECK(model(deepseek_v4, 0) == "DeepseekV4Hash");
  CHECK(model(deepseek_v4, 1) == "DeepseekV4");
  CHECK(describe(deepseek_v4, 0).vocabulary == 50);
  CHECK(describe(deepseek_v4, 1).shared_clamped.gate_max == 10);
  char const* const cohere2 = R"({"model_type": "cohere2_moe", "hidden_size": 8, "intermediate_size": 4,
    "num_experts": 6, "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_shared_experts": 2})";
  CHECK(model(cohere2) == "GraniteMoeShared");
  CHECK(describe(cohere2).output_scale == 0.5f);
  CHECK(describe(cohere2).shared_intermediate == 8);
  CHECK(model(with(cohere2, "expert_selection_fn", R"("sigmoid")")) == "Cohere2MoeSigmoid");
  CHECK(model(with(cohere2, "num_shared_experts", "0")) == "GraniteMoe");
  CHECK(model(R"({"model_type": "lfm2_moe", "hidden_size": 8, "moe_intermediate_size": 4, "num_experts": 6,
    "num_experts_per_tok": 2, "num_hidden_layers": 4, "use_expert_bias": false})",
              2) == "Lfm2MoeWithoutBias");
}

TEST_CASE("settings of one layer, and defaults that are not zero") {
  char const* const step = R"({"model_type": "step3p7", "text_config": {"hidden_size": 8, "moe_intermediate_size": 4,
    "moe_num_experts": 6, "moe_top_k": 2, "num_hidden_layers": 5, "share_expert_dim": 12,
    "moe_router_scaling_factor": 3.0, "swiglu_limits": [0, 0, 0, 0, 7.0], "swiglu_limits_shared": [0, 0, 0, 16, 0]}})";
  CHECK(describe(step, 4).clamped.gate_max == 7);
  CHECK(describe(step, 4).clamped.clamp == Clamp::after_activation);
  CHECK(describe(step, 3).clamped.gate_max == std::numeric_limits<float>::infinity());
  CHECK(describe(step, 3).shared_clamped.up_limit == 16);
  CHECK(describe(step, 3).routed_scale == 3);
  CHECK(describe(step, 3).scale == 1);
  CHECK(describe(step, 3).gate_up == GateUp::separate);
  CHECK(name(step, 3, "gate_proj") == "model.layers.3.moe.gate_proj.weight");

  auto const without_factor = with(deepseek_v3, "routed_scaling_factor", "");
  CHECK(describe(without_factor.c_str()).scale == 2.5f);

  auto const dbrx = [](std::string const& p) {
    return R"({"model_type": "dbrx", "d_model": 8, "n_layers": 2, "ffn_config": {"ffn_hidden_size": 4,
      "moe_num_experts": 6, "moe_top_k": 2)" +
           p + "}}";
  };
  CHECK(describe(dbrx("").c_str()).normalize == Normalize::p_norm);
  CHECK(describe(dbrx(R"(, "moe_normalize_expert_weights": 2)").c_str()).normalize_p == 2);
  CHECK(describe(dbrx(R"(, "moe_normalize_expert_weights": null)").c_str()).normalize == Normalize::none);
}

TEST_CASE("a model of several modalities, and its language model alone") {
  char const* const both = R"({"model_type": "qwen3_vl_moe", "text_config": {"model_type": "qwen3_vl_moe_text",
    "hidden_size": 8, "moe_intermediate_size": 4, "num_experts": 6, "num_experts_per_tok": 2, "num_hidden_layers": 2}})";
  auto const alone = nlohmann::json::parse(both)["text_config"].dump();
  CHECK(describe(both).hidden == 8);
  CHECK(describe(both).up_order == WeightOrder::in_out);
  CHECK(describe(alone.c_str()).hidden == 8);
  CHECK(name(both, 1, "gate_up") == "model.language_model.layers.1.mlp.experts.gate_up_proj");
  CHECK(name(alone.c_str(), 1, "gate_up") == "model.layers.1.mlp.experts.gate_up_proj");
}

TEST_CASE("activations by their names") {
  auto const activation = [](char const* act) {
    return describe(with(mixtral, "hidden_act", '"' + std::string(act) + '"').c_str()).activation;
  };
  CHECK(activation("swish") == ActivationKind::silu);
  CHECK(activation("gelu") == ActivationKind::gelu);
  CHECK(activation("gelu_pytorch_tanh") == ActivationKind::gelu_tanh);
  CHECK(activation("relu") == ActivationKind::relu);
  CHECK(activation("relu2") == ActivationKind::squared_relu);
  CHECK(describe(with(mixtral, "hidden_act", "").c_str()).activation == ActivationKind::silu);
}

TEST_CASE("wrong configurations are refused by id") {
  CHECK(error_of(mixtral) == 0);
  CHECK(error_of(with(mixtral, "model_type", "")) == 431);
  CHECK(error_of(with(mixtral, "model_type", "7")) == 432);
  CHECK(error_of(with(mixtral, "model_type", R"("llama")")) == 434);
  for (auto const* key :
       {"hidden_size", "intermediate_size", "num_local_experts", "num_experts_per_tok", "num_hidden_layers"}) {
    CAPTURE(key);
    CHECK(error_of(with(mixtral, key, "")) == 431);
    CHECK(error_of(with(mixtral, key, "null")) == 431);
    CHECK(error_of(with(mixtral, key, R"("8")")) == 432);
    CHECK(error_of(with(mixtral, key, "8.5")) == 432);
    CHECK(error_of(with(mixtral, key, "0")) == 433);
    CHECK(error_of(with(mixtral, key, "-3")) == 433);
    CHECK(error_of(with(mixtral, key, "4294967296")) == 433);
  }
  CHECK(error_of(with(mixtral, "num_local_experts", "[8]")) == 433); // no entry for layer 1
  CHECK(error_of(with(mixtral, "num_hidden_layers", "100000")) == 433);
  CHECK(error_of(with(mixtral, "hidden_act", R"("mish")")) == 435);
  CHECK(error_of(with(mixtral, "hidden_act", "1")) == 432);
  CHECK(error_of(with(phimoe, "num_experts_per_tok", "3")) == 435);
  CHECK(error_of(with(qwen3_moe, "norm_topk_prob", "1")) == 432);
  CHECK(error_of(with(qwen3_moe, "decoder_sparse_step", "0")) == 433);
  CHECK(error_of(with(qwen3_moe, "mlp_only_layers", "0")) == 432);
  CHECK(error_of(with(deepseek_v3, "mlp_layer_types", R"(["sparse"])")) == 433);
  CHECK(error_of(with(deepseek_v3, "n_shared_experts", "-1")) == 433);
  CHECK(error_of(with(deepseek_v3, "mlp_bias", "true")) == 435);
  CHECK(error_of(mixtral, 3) == 436);
  CHECK(error_of(mixtral, -1) == 436);
}

TEST_CASE("an unknown model_type is answered with the known ones") {
  try {
    (void)io::family(config(R"({"model_type": "gpt2\n"})"));
    FAIL("no error");
  } catch (Error const& error) {
    std::string const text = error.what();
    CHECK(text.find("config.json: model_type is gpt2") != std::string::npos);
    CHECK(text.find('\n') == std::string::npos);
    CHECK(text.find("mixtral, minimax, qwen3_moe") != std::string::npos);
    CHECK(text.find("deepseek_v4") != std::string::npos);
  }
}

} // namespace families_test
