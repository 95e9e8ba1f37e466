// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_FAMILIES_SOFTMAX_HPP
#define KOKOMO_IO_FAMILIES_SOFTMAX_HPP

#include <kokomo/io/families/keys.hpp>

namespace kokomo::inline v0::detail::families {

// Softmax over all experts, then top-k (docs/families/mixtral.md, qwen2_moe.md, hunyuan_moe.md, ernie4_5_moe.md,
// longcat_flash.md, gemma4.md, deepseek_v2.md).

/// Weights s, or s / sum, rounded to the storage type; logits in the storage type.
inline MoeBlock softmax_block(Config const& c, int layer, std::string_view width, bool normalize) {
  auto d = sizes_of(c, layer, width);
  d.round_logits = d.round_weights = true;
  normalize_by_sum(d, 0, normalize);
  return {"Mixtral", d};
}
inline MoeBlock mixtral_block(Config const& c, int layer) {
  auto block = softmax_block(c, layer, "intermediate_size", true);
  block.description.round_weights = false;
  return block;
}
inline MoeBlock olmoe_block(Config const& c, int layer) {
  return softmax_block(c, layer, "intermediate_size", norm_topk_prob(c));
}
inline MoeBlock qwen3_block(Config const& c, int layer) {
  return softmax_block(c, layer, "moe_intermediate_size", norm_topk_prob(c));
}
inline MoeBlock qwen3_vl_block(Config const& c, int layer) {
  auto block = softmax_block(c, layer, "moe_intermediate_size", true);
  block.description.up_order = block.description.down_order = WeightOrder::in_out;
  return block;
}
inline MoeBlock jamba_block(Config const& c, int layer) {
  return softmax_block(c, layer, "intermediate_size", false);
}
inline bool jamba_sparse(Config const& c, int layer) {
  return c.integer("num_experts", 0) > 1 &&
         layer % c.integer("expert_layer_period", 1) == c.integer("expert_layer_offset", 0);
}

inline MoeBlock with_gated_shared(Config const& c, MoeBlock block) {
  add_shared(block.description, c.size("shared_expert_intermediate_size"));
  block.model = "Qwen2Moe";
  return block;
}
inline MoeBlock qwen2_block(Config const& c, int layer) {
  return with_gated_shared(c, qwen3_block(c, layer));
}
inline MoeBlock qwen3_5_block(Config const& c, int layer) {
  return with_gated_shared(c, softmax_block(c, layer, "moe_intermediate_size", true));
}

inline MoeBlock hunyuan_block(Config const& c, int layer) {
  auto d = sizes_of(c, layer, "intermediate_size");
  normalize_by_sum(d, 0);
  add_shared(d, d.intermediate);
  return {"HunyuanMoe", d};
}

inline MoeBlock dbrx_block(Config const& c, int layer) {
  auto const ffn = c.object("ffn_config");
  auto const act = ffn.has("ffn_act_fn") ? ffn.object("ffn_act_fn") : Config(nlohmann::json::object(), ffn.name());
  models::Description d;
  d.hidden = c.size("d_model");
  d.intermediate = ffn.size("ffn_hidden_size");
  d.experts = layer_size(ffn, "moe_num_experts", layer);
  d.top_k = layer_size(ffn, "moe_top_k", layer);
  d.activation = activation_of(act, "name", "silu");
  d.round_logits = d.round_weights = true;
  // An absent key means the default, null means none.
  bool const normalize =
      !ffn.json().contains("moe_normalize_expert_weights") || ffn.has("moe_normalize_expert_weights");
  d.normalize = normalize ? Normalize::p_norm : Normalize::none;
  d.normalize_p = real(ffn, {"moe_normalize_expert_weights"}, 1);
  d.gate_up = GateUp::separate;
  d.down_order = WeightOrder::in_out;
  return {"Mixtral", d};
}

/// \param width of one expert
inline MoeBlock ernie_block(Config const& c, models::Description d, offset_t shared_width) {
  d.normalize = Normalize::sum_clamp_min;
  d.normalize_epsilon = real(c, {"moe_norm_min"}, 1e-12);
  d.round_weights = true;
  add_shared(d, shared_width * count_of(c, {"moe_num_shared_experts"}));
  return {d.shared > 0 ? "Ernie45Moe" : "Ernie45MoeWithoutShared", d};
}
inline MoeBlock ernie4_5_block(Config const& c, int layer) {
  auto const d = sizes_of(c, layer);
  return ernie_block(c, d, d.intermediate);
}
inline bool ernie4_5_sparse(Config const& c, int layer) {
  auto const last = c.integer_or("moe_layer_end_index", -1);
  return (layer + 1) % c.integer("moe_layer_interval", 1) == 0 && layer >= c.integer("moe_layer_start_index") &&
         (last == -1 || layer <= last);
}
/// Its lists have a text and a vision entry. \param modality 0: text, with the shared expert; 1: vision, without it
template <int Modality> MoeBlock ernie4_5_vl_block(Config const& c, int) {
  auto d = sizes_of(c, Modality);
  auto const text_width = layer_size(c, "moe_intermediate_size", 0);
  return ernie_block(c, d, Modality == 0 ? text_width : 0);
}

inline MoeBlock longcat_block(Config const& c, int layer) {
  auto d = sizes_of(c, layer, first_key(c, {"expert_ffn_hidden_size", "moe_intermediate_size"}));
  if (auto const type = c.string_or("zero_expert_type", "identity"); type != "identity")
    unsupported(c, "zero_expert_type", type, "identity");
  d.identity_experts = count_of(c, {"zero_expert_num"});
  d.scale = routed_scaling_factor(c);
  return {"LongcatFlash", d};
}

inline MoeBlock gemma4_block(Config const& c, int layer) {
  auto d = sizes_of(c, layer, "moe_intermediate_size", "hidden_activation", "gelu_pytorch_tanh");
  d.round_logits = d.expert_scales = true;
  normalize_by_sum(d, 0);
  d.router_norm_epsilon = d.space_norm_epsilon = real(c, {"rms_norm_eps"}, 1e-6);
  return {"Gemma4", d};
}
inline bool gemma4_sparse(Config const& c, int) {
  return c.boolean_or("enable_moe_block", false);
}

/// Softmax scores with groups, or without; weights times a factor, shared experts as one wide expert.
inline MoeBlock grouped_softmax_block(Config const& c, int layer, GroupScore score, bool groups) {
  auto d = sizes_of(c, layer);
  if (groups) {
    d.groups = int(c.size_or("n_group", 1));
    d.allowed_groups = int(c.size_or("topk_group", 1));
  }
  d.group_score = score;
  d.outside = OutsideRank::zero;
  d.scale = routed_scaling_factor(c);
  add_shared(d, d.intermediate * count_of(c, {"n_shared_experts"}));
  if (d.shared == 0) unsupported(c, "n_shared_experts", "0", "1 or more");
  return {"DeepseekV2", d};
}
inline MoeBlock deepseek_v2_block(Config const& c, int layer) {
  auto const method = c.string_or("topk_method", "greedy");
  if (method != "greedy" && method != "group_limited_greedy")
    unsupported(c, "topk_method", method, "greedy or group_limited_greedy");
  return grouped_softmax_block(c, layer, GroupScore::max, method == "group_limited_greedy");
}
inline MoeBlock mistral4_block(Config const& c, int layer) {
  auto block = grouped_softmax_block(c, layer, GroupScore::top2_sum, true);
  block.description.round_logits = block.description.round_weights = true;
  normalize_by_sum(block.description, 1e-20f, norm_topk_prob(c));
  return block;
}
inline MoeBlock mistral_large4_block(Config const& c, int layer) {
  auto block = grouped_softmax_block(c, layer, GroupScore::top2_sum, true);
  normalize_by_sum(block.description, 1e-20f);
  return block;
}

inline constexpr ProjectionNames fused_names{.name = "mlp.experts.{p}", .down = "down_proj", .gate_up = "gate_up_proj"};
inline constexpr TensorNames mixtral_names{
    .router = "block_sparse_moe.gate.weight",
    .experts = {.name = "block_sparse_moe.experts.{e}.{p}.weight", .gate = "w1", .up = "w3", .down = "w2"}};
inline constexpr NamedTensor qwen2_others[] = {{"shared_expert_gate", "mlp.shared_expert_gate.weight"}};
inline constexpr TensorNames qwen2_names{.shared = shared_expert_names, .others = qwen2_others};
inline constexpr TensorNames deepseek_v2_names{.shared = shared_experts_names};
inline constexpr NamedTensor gemma4_others[] = {{"router_scale", "router.scale"},
                                                {"per_expert_scale", "router.per_expert_scale"},
                                                {"expert_norm_weight", "pre_feedforward_layernorm_2.weight"}};
inline constexpr TensorNames gemma4_names{.layer = language_model,
                                          .router = "router.proj.weight",
                                          .experts = {.name = "experts.{p}", .gate_up = "gate_up_proj"},
                                          .others = gemma4_others};
inline constexpr TensorNames ernie4_5_names{.selection_bias = "mlp.moe_statics.e_score_correction_bias",
                                            .shared = shared_experts_names};

inline constexpr Family softmax_families[] = {
    {.model_type = "mixtral", .source = "mixtral", .names = mixtral_names, .block = mixtral_block},
    {.model_type = "minimax", .source = "minimax", .names = mixtral_names, .block = mixtral_block},
    {.model_type = "qwen3_moe", .source = "qwen3_moe", .block = qwen3_block, .sparse = by_step},
    {.model_type = "mellum",
     .source = "mellum",
     .defaults = R"({"norm_topk_prob": true})",
     .block = qwen3_block,
     .sparse = after_dense},
    {.model_type = "qwen3_omni_moe",
     .source = "qwen3_omni_moe",
     .settings = "thinker_config.text_config",
     .defaults = R"({"norm_topk_prob": true})",
     .names = {.layer = "thinker.model.layers.{l}."},
     .block = qwen3_block,
     .sparse = by_step},
    {.model_type = "qwen3_vl_moe",
     .source = "qwen3_vl_moe",
     .settings = "text_config",
     .names = {.layer = language_model, .experts = fused_names},
     .block = qwen3_vl_block,
     .sparse = by_step},
    {.model_type = "olmoe", .source = "olmoe", .block = olmoe_block},
    {.model_type = "flex_olmo", .source = "flex_olmo", .block = olmoe_block},
    {.model_type = "jamba",
     .source = "jamba",
     .defaults = R"({"expert_layer_period": 2, "expert_layer_offset": 1})",
     .names = {.router = "feed_forward.router.weight", .experts = {.name = "feed_forward.experts.{e}.{p}.weight"}},
     .block = jamba_block,
     .sparse = jamba_sparse},
    {.model_type = "dbrx",
     .source = "dbrx",
     .names = {.layer = "transformer.blocks.{l}.",
               .router = "ffn.router.layer.weight",
               .experts = {.name = "ffn.experts.mlp.{p}", .gate = "w1", .up = "v1", .down = "w2"}},
     .block = dbrx_block},

    {.model_type = "qwen2_moe", .source = "qwen2_moe", .names = qwen2_names, .block = qwen2_block, .sparse = by_step},
    {.model_type = "qwen3_next",
     .source = "qwen3_next",
     .defaults = R"({"norm_topk_prob": true})",
     .names = qwen2_names,
     .block = qwen2_block,
     .sparse = by_step},
    {.model_type = "qwen3_omni_moe/talker",
     .source = "qwen3_omni_moe",
     .settings = "talker_config.text_config",
     .names = under("talker.model.layers.{l}.", qwen2_names),
     .block = qwen2_block,
     .sparse = by_step},
    {.model_type = "qwen3_5_moe",
     .source = "qwen3_5_moe",
     .settings = "text_config",
     .names = under(language_model, qwen2_names),
     .block = qwen3_5_block},
    {.model_type = "qwen4_exp",
     .source = "qwen4_exp",
     .settings = "text_config",
     .defaults = R"({"norm_topk_prob": true})",
     .names = under(language_model, qwen2_names),
     .block = qwen2_block},

    {.model_type = "hunyuan_v1_moe",
     .source = "hunyuan_v1_moe",
     .names = {.router = "mlp.gate.wg.weight", .shared = {.name = "mlp.shared_mlp.{p}.weight"}},
     .block = hunyuan_block},
    {.model_type = "ernie4_5_moe",
     .source = "ernie4_5_moe",
     .defaults = R"({"moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_layer_interval": 1})",
     .names = ernie4_5_names,
     .block = ernie4_5_block,
     .sparse = ernie4_5_sparse},
    {.model_type = "ernie4_5_vl_moe",
     .source = "ernie4_5_vl_moe",
     .settings = "text_config",
     .defaults = R"({"moe_num_shared_experts": 2, "first_k_dense_replace": 1})",
     .names = ernie4_5_names,
     .block = ernie4_5_vl_block<0>,
     .sparse = after_dense},
    {.model_type = "ernie4_5_vl_moe/vision",
     .source = "ernie4_5_vl_moe",
     .settings = "text_config",
     .defaults = R"({"moe_num_shared_experts": 2, "first_k_dense_replace": 1})",
     .names = {.router = "mlp.gate.weight_1", .selection_bias = "mlp.moe_statics.e_score_correction_bias"},
     .block = ernie4_5_vl_block<1>,
     .sparse = after_dense},
    {.model_type = "longcat_flash",
     .source = "longcat_flash",
     .defaults = R"({"zero_expert_num": 256, "routed_scaling_factor": 6.0})",
     .names = {.router = "mlp.router.classifier.weight", .selection_bias = "mlp.router.e_score_correction_bias"},
     .block = longcat_block},
    {.model_type = "gemma4",
     .source = "gemma4",
     .settings = "text_config",
     .names = gemma4_names,
     .block = gemma4_block,
     .sparse = gemma4_sparse},
    {.model_type = "diffusion_gemma",
     .source = "diffusion_gemma",
     .settings = "text_config",
     .names = under("model.decoder.layers.{l}.", gemma4_names),
     .block = gemma4_block},

    {.model_type = "deepseek_v2",
     .source = "deepseek_v2",
     .defaults = R"({"n_shared_experts": 2})",
     .names = deepseek_v2_names,
     .block = deepseek_v2_block,
     .sparse = after_dense},
    {.model_type = "deepseek_ocr2",
     .source = "deepseek_ocr2",
     .settings = "text_config",
     .defaults = R"({"n_shared_experts": 2})",
     .names = deepseek_v2_names,
     .block = deepseek_v2_block,
     .sparse = after_dense},
    {.model_type = "unlimited_ocr",
     .source = "unlimited_ocr",
     .settings = "text_config",
     .defaults = R"({"n_shared_experts": 2, "first_k_dense_replace": 1})",
     .names = deepseek_v2_names,
     .block = deepseek_v2_block,
     .sparse = after_dense},
    {.model_type = "mistral4",
     .source = "mistral4",
     .defaults = R"({"n_shared_experts": 1, "norm_topk_prob": true})",
     .names = deepseek_v2_names,
     .block = mistral4_block,
     .sparse = after_dense},
    {.model_type = "mistral_large4",
     .source = "mistral_large4",
     .settings = "text_config",
     .defaults = R"({"n_shared_experts": 1, "first_k_dense_replace": 1})",
     .names = {.layer = "layers.{l}.",
               .router = "gate.weight",
               .experts = {.name = "experts.{e}.{p}.weight", .gate = "w1", .up = "w3", .down = "w2"},
               .shared = {.name = "shared_experts.{p}.weight", .gate = "w1", .up = "w3", .down = "w2"}},
     .block = mistral_large4_block,
     .sparse = after_dense},
};

} // namespace kokomo::inline v0::detail::families

#endif
