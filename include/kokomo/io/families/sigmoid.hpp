// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_FAMILIES_SIGMOID_HPP
#define KOKOMO_IO_FAMILIES_SIGMOID_HPP

#include <kokomo/io/families/keys.hpp>

namespace kokomo::inline v0::detail::families {

// Sigmoid scores without groups (docs/families/sigmoid_top_k.md, deepseek_v4.md).

inline MoeBlock sigmoid_block(models::Description const& d) {
  return {d.shared > 0 ? "Afmoe" : "MiniMaxM2", d};
}

/// s / (sum + epsilon) * scale, with an ungated shared expert.
inline MoeBlock afmoe_block(Config const& c, int layer) {
  auto d = sizes_of(c, layer);
  d.round_logits = true;
  normalize_by_sum(d, 1e-20f);
  d.scale = routed_scaling_factor(c);
  add_shared(d, d.intermediate * count_of(c, {"num_shared_experts"}));
  return sigmoid_block(d);
}
inline MoeBlock hy_v3_block(Config const& c, int layer) {
  auto d = sizes_of(c, layer);
  normalize_by_sum(d, 1e-20f);
  d.scale = routed_scaling_factor(c);
  add_shared(d, d.intermediate * count_of(c, {"num_shared_experts"}));
  return sigmoid_block(d);
}
inline MoeBlock laguna_block(Config const& c, int layer) {
  if (c.boolean_or("moe_apply_router_weight_on_input", false))
    unsupported(c, "moe_apply_router_weight_on_input", "true", "false");
  auto d = sizes_of(c, layer);
  d.round_logits = d.round_weights = true;
  d.logit_softcap = real(c, {"moe_router_logit_softcapping"}, 0);
  normalize_by_sum(d, 0);
  d.routed_scale = routed_scaling_factor(c);
  add_shared(d, c.size("shared_expert_intermediate_size"));
  return sigmoid_block(d);
}
inline MoeBlock lfm2_block(Config const& c, int layer) {
  auto d = sizes_of(c, layer);
  d.round_logits = d.round_weights = true;
  normalize_by_sum(d, 1e-6f, norm_topk_prob(c));
  d.scale = routed_scaling_factor(c);
  return {c.boolean("use_expert_bias") ? "MiniMaxM2" : "Lfm2MoeWithoutBias", d};
}
inline MoeBlock minimax_m2_block(Config const& c, int layer) {
  auto d = sizes_of(c, layer, "intermediate_size");
  d.round_logits = true;
  normalize_by_sum(d, 0);
  return sigmoid_block(d);
}
/// The vision tower of dots3_note: `per_layer_config` or `pyramid_num_routed` give each layer's experts.
inline MoeBlock dots3_vision_block(Config const& c, int layer) {
  models::Description d;
  auto const key = std::to_string(layer);
  auto const all = c.has("per_layer_config") ? c.object("per_layer_config") : c;
  auto const own = all.has(key) ? all.object(key) : c;
  bool const pyramid = c.has("pyramid_num_routed");
  auto const pick = [&](std::string_view name) -> Config const& { return own.has(name) ? own : c; };
  d.hidden = c.size(first_key(c, {"hidden_size", "embed_dim"}));
  d.intermediate = c.size("moe_intermediate_size");
  d.experts =
      pyramid ? layer_size(c, "pyramid_num_routed", layer) : pick("num_local_experts").size("num_local_experts");
  auto const k = pick("num_experts_per_tok");
  d.top_k = k.size_or(first_key(k, {"num_experts_per_tok", "capacity_factor"}), 2);
  d.top_k = std::min(d.top_k, int(d.experts));
  d.activation = activation_of(c, "hidden_act", "silu");
  normalize_by_sum(d, 1e-20f);
  d.scale = real(c, {"router_scaling_factor", "router_scale"}, 1);
  return sigmoid_block(d);
}
inline bool dots3_vision_sparse(Config const& c, int layer) {
  if (c.has("pyramid_num_routed"))
    return of_layer(c, "pyramid_num_routed", c.integers_or_none("pyramid_num_routed"), layer) > 0;
  return c.has("mlp_layer_types") && after_dense(c, layer);
}

inline MoeBlock flint_block(Config const& c, int layer) {
  auto d = sizes_of(c, layer);
  normalize_by_sum(d, 0, norm_topk_prob(c));
  add_shared(d, c.size("shared_expert_intermediate_size"));
  return {"Flint", d};
}
inline bool flint_sparse(Config const& c, int layer) {
  return by_step(c, layer) && (c.has("mlp_only_layers") || layer > 1);
}
inline MoeBlock kolibri1_block(Config const& c, int layer) {
  auto d = sizes_of(c, layer);
  normalize_by_sum(d, 0, norm_topk_prob(c));
  add_shared(d, c.size("shared_expert_intermediate_size"));
  return {"Kolibri1", d};
}

/// s / sum, clamped SwiGLU, the summed output scaled.
inline models::Description minimax_m3_routing(Config const& c, models::Description d) {
  d.round_logits = true;
  normalize_by_sum(d, 0);
  d.routed_scale = routed_scaling_factor(c);
  return d;
}
inline MoeBlock minimax_m3_block(Config const& c, int layer) {
  auto d = minimax_m3_routing(c, sizes_of(c, layer, "intermediate_size"));

  d.clamped = {.alpha = float(c.number("swiglu_alpha")), .up_offset = 1};
  clamp_at(d.clamped, c.number_or("swiglu_limit", 0));
  d.shared_clamped = d.clamped;
  add_shared(d, c.size("shared_intermediate_size"));
  return {"MiniMaxM3", d};
}
/// An entry of swiglu_limits, a number for each layer; 0 and null: none.
inline ClampedSwiGlu step3p7_clamp(Config const& c, std::string_view key, int layer) {
  ClampedSwiGlu a{.clamp = Clamp::after_activation};
  if (!c.has(key)) return a;
  auto const& list = c.json().at(key);
  bool const right = list.is_array() && std::cmp_less(layer, list.size()) &&
                     (list[std::size_t(layer)].is_number() || list[std::size_t(layer)].is_null());
  require(right, 432, c.name(), ": ", key, " has no number for layer ", layer);
  if (!list[std::size_t(layer)].is_null()) clamp_at(a, list[std::size_t(layer)].template get<double>());
  return a;
}
inline MoeBlock step3p7_block(Config const& c, int layer) {
  auto d = minimax_m3_routing(c, sizes_of(c, layer));
  d.clamped = step3p7_clamp(c, "swiglu_limits", layer);
  d.shared_clamped = step3p7_clamp(c, "swiglu_limits_shared", layer);
  d.gate_up = GateUp::separate;
  add_shared(d, c.size(first_key(c, {"share_expert_dim", "share_expert_dims"})));
  return {"MiniMaxM3", d};
}
/// moe_layers_enum: a list, or its numbers between commas.
inline bool step3p7_sparse(Config const& c, int layer) {
  if (c.has("mlp_layer_types")) return after_dense(c, layer);
  if (!c.has("moe_layers_enum")) return layer >= 3;
  if (!c.json().at("moe_layers_enum").is_string()) {
    auto const list = c.integers_or_none("moe_layers_enum");
    return std::find(list.begin(), list.end(), layer) != list.end();
  }
  return ("," + replaced(c.string("moe_layers_enum"), " ", "") + ",").find("," + std::to_string(layer) + ",") !=
         std::string::npos;
}

inline MoeBlock inkling2_block(Config const& c, int layer) {
  auto d = sizes_of(c, layer);
  normalize_by_sum(d, 1e-20f);
  d.scale = routed_scaling_factor(c);
  d.softcapped = {.gate_cap = float(c.number("mlp_gate_softcap")), .up_cap = float(c.number("mlp_up_softcap"))};
  d.gate_up = GateUp::interleaved;
  return {"Inkling2", d};
}
inline MoeBlock inkling_block(Config const& c, int layer) {
  // A file with dense_intermediate_size means the experts by intermediate_size.
  auto d = sizes_of(c, layer, c.has("dense_intermediate_size") ? "intermediate_size" : "moe_intermediate_size");
  d.round_weights = true;
  d.scale = routed_scaling_factor(c);
  d.gate_up = GateUp::interleaved;
  d.shared = c.size("n_shared_experts");
  d.shared_intermediate = d.intermediate;
  return {"Inkling", d};
}
inline MoeBlock muse_spark_block(Config const& c, int layer) {
  auto d = sizes_of(c, layer);
  d.logit_multiplier = float(c.number("output_multiplier"));
  normalize_by_sum(d, 1e-15f);
  d.scale = routed_scaling_factor(c);
  d.latent = c.size("moe_hidden_size");
  d.latent_norm = true;
  d.space_norm_epsilon = float(c.number("rms_norm_eps"));
  d.space_norm_offset = d.row_norm_offset = 1;
  d.row_norm_epsilon = float(c.number("post_norm_eps"));
  return {"MuseSpark", d};
}

inline bool deepseek_v4_hashed(Config const& c, int layer) {
  if (c.has("mlp_layer_types"))
    return of_layer(c, "mlp_layer_types", c.strings_or_none("mlp_layer_types"), layer) == "hash_moe";
  return layer < count_of(c, {"num_hash_layers", "default_num_hash_layers"});
}
inline MoeBlock deepseek_v4_block(Config const& c, int layer) {
  if (auto const f = c.string_or("scoring_func", "sqrtsoftplus"); f != "sqrtsoftplus")
    unsupported(c, "scoring_func", f, "sqrtsoftplus");
  auto d = sizes_of(c, layer);
  d.round_logits = d.round_weights = true;
  normalize_by_sum(d, 1e-20f);
  d.scale = routed_scaling_factor(c);
  clamp_at(d.clamped, c.number_or("swiglu_limit", 0));
  d.shared_clamped = d.clamped;
  add_shared(d, d.intermediate); // whatever n_shared_experts says
  if (!deepseek_v4_hashed(c, layer)) return {"DeepseekV4", d};
  d.vocabulary = c.size("vocab_size");
  return {"DeepseekV4Hash", d};
}

inline constexpr TensorNames m3_names{
    .layer = "language_model.model.layers.{l}.",
    .router = "block_sparse_moe.gate.weight",
    .selection_bias = "block_sparse_moe.e_score_correction_bias",
    .experts = {.name = "block_sparse_moe.experts.{e}.{p}.weight", .gate = "w1", .up = "w3", .down = "w2"},
    .shared = {.name = "block_sparse_moe.shared_experts.{p}.weight"}};
inline constexpr ProjectionNames inkling_experts{
    .name = "mlp.experts.{p}", .down = "w2_weight", .gate_up = "w13_weight"};
inline constexpr NamedTensor inkling_others[] = {{"global_scale", "mlp.gate.global_scale"}};
inline constexpr NamedTensor muse_spark_others[] = {{"latent_in", "mlp.pre_expert_proj.weight"},
                                                    {"latent_out", "mlp.post_expert_proj.weight"},
                                                    {"latent_norm_weight", "mlp.pre_expert_norm.weight"},
                                                    {"post_expert_norm_weight", "mlp.experts.post_expert_norm.weight"}};
inline constexpr NamedTensor deepseek_v4_others[] = {{"hash_table", "ffn.gate.tid2eid"}};

inline constexpr Family sigmoid_families[] = {
    {.model_type = "afmoe",
     .source = "afmoe",
     .defaults = R"({"num_shared_experts": 2, "num_dense_layers": 1})",
     .names = {.router = "mlp.router.gate.weight", .selection_bias = "mlp.expert_bias", .shared = shared_experts_names},
     .block = afmoe_block,
     .sparse = after_dense},
    {.model_type = "hy_v3",
     .source = "hy_v3",
     .defaults = R"({"num_shared_experts": 1, "router_scaling_factor": 2.826, "first_k_dense_replace": 1})",
     .names = {.router = "mlp.router.gate.weight",
               .selection_bias = "mlp.expert_bias",
               .shared = {.name = "mlp.shared_mlp.{p}.weight"}},
     .block = hy_v3_block,
     .sparse = after_dense},
    {.model_type = "laguna",
     .source = "laguna",
     .defaults = R"({"first_k_dense_replace": 1})",
     .names = {.selection_bias = "mlp.experts.e_score_correction_bias", .shared = shared_expert_names},
     .block = laguna_block,
     .sparse = after_dense},
    {.model_type = "lfm2_moe",
     .source = "lfm2_moe",
     .defaults = R"({"num_dense_layers": 2, "use_expert_bias": true, "norm_topk_prob": true})",
     .names = {.router = "feed_forward.gate.weight",
               .selection_bias = "feed_forward.expert_bias",
               .experts = {.name = "feed_forward.experts.{e}.{p}.weight", .gate = "w1", .up = "w3", .down = "w2"}},
     .block = lfm2_block,
     .sparse = after_dense},
    {.model_type = "minimax_m2",
     .source = "minimax_m2",
     .names = {.router = "block_sparse_moe.gate.weight",
               .selection_bias = "block_sparse_moe.e_score_correction_bias",
               .experts = {.name = "block_sparse_moe.experts.{e}.{p}.weight", .gate = "w1", .up = "w3", .down = "w2"}},
     .block = minimax_m2_block},
    {.model_type = "dots3_note/vision",
     .source = "dots3_note",
     .settings = "vision_config",
     .names = {.layer = "vision_encoder.blocks.{l}.",
               .router = "mlp.gate_weight",
               .selection_bias = "mlp.router_bias",
               .experts = {.name = "mlp.experts.{e}.{p}.weight", .gate = "fc1", .up = "fc3", .down = "fc2"}},
     .block = dots3_vision_block,
     .sparse = dots3_vision_sparse},
    {.model_type = "flint",
     .source = "flint",
     .defaults = R"({"norm_topk_prob": true})",
     .names = {.shared = shared_expert_names},
     .block = flint_block,
     .sparse = flint_sparse},
    {.model_type = "kolibri1",
     .source = "kolibri1",
     .names = {.selection_bias = "moe.router.expert_bias", .shared = shared_experts_names},
     .block = kolibri1_block},
    {.model_type = "minimax_m3_vl",
     .source = "minimax_m3_vl",
     .settings = "text_config",
     .defaults =
         R"({"swiglu_alpha": 1.702, "swiglu_limit": 7.0, "routed_scaling_factor": 2.0, "shared_intermediate_size": 3072})",
     .names = m3_names,
     .block = minimax_m3_block,
     .sparse = after_dense},
    {.model_type = "step3p7",
     .source = "step3p7",
     .settings = "text_config",
     .names = {.router = "moe.gate.weight",
               .selection_bias = "moe.router_bias",
               .experts = {.name = "moe.{p}.weight"},
               .shared = {.name = "share_expert.{p}.weight"}},
     .block = step3p7_block,
     .sparse = step3p7_sparse},
    {.model_type = "inkling_mm_model",
     .source = "inkling",
     .settings = "text_config",
     .defaults = R"({"route_scale": 8.0, "n_shared_experts": 2})",
     .names = {.layer = "model.llm.layers.{l}.",
               .selection_bias = "mlp.gate.bias",
               .experts = inkling_experts,
               .shared = {.name = "mlp.shared_experts.{p}", .down = "shared_w2_weight", .gate_up = "shared_w13_weight"},
               .others = inkling_others},
     .block = inkling_block,
     .sparse = after_dense},
    {.model_type = "inkling2",
     .source = "inkling2",
     .settings = "text_config",
     .defaults = R"({"route_scale": 8.0, "mlp_gate_softcap": 4.0, "mlp_up_softcap": 25.0})",
     .names = {.layer = "model.llm.layers.{l}.", .selection_bias = "mlp.gate.bias", .experts = inkling_experts},
     .block = inkling2_block},
    {.model_type = "muse_spark",
     .source = "muse_spark",
     .settings = "text_config",
     .defaults = R"({"output_multiplier": 0.1767766952966369, "post_norm_eps": 1e-8, "rms_norm_eps": 1e-5})",
     .names = {.layer = language_model,
               .selection_bias = "mlp.gate.e_score_correction_bias",
               .experts = {.name = "mlp.experts.{p}", .gate_up = "gate_up_proj"},
               .others = muse_spark_others},
     .block = muse_spark_block,
     .sparse = after_dense},
    {.model_type = "deepseek_v4",
     .source = "deepseek_v4",
     .defaults = R"({"routed_scaling_factor": 1.5, "swiglu_limit": 10.0, "default_num_hash_layers": 3})",
     .names = {.layer = "layers.{l}.",
               .router = "ffn.gate.weight",
               .selection_bias = "ffn.gate.bias",
               .experts = {.name = "ffn.experts.{e}.{p}.weight", .gate = "w1", .up = "w3", .down = "w2"},
               .shared = {.name = "ffn.shared_experts.{p}.weight", .gate = "w1", .up = "w3", .down = "w2"},
               .others = deepseek_v4_others},
     .block = deepseek_v4_block},
};

} // namespace kokomo::inline v0::detail::families

#endif
