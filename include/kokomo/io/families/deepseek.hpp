// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_FAMILIES_DEEPSEEK_HPP
#define KOKOMO_IO_FAMILIES_DEEPSEEK_HPP

#include <kokomo/io/families/keys.hpp>

namespace kokomo::inline v0::detail::families {

// Sigmoid scores plus a selection bias, in groups (docs/families/deepseek_v3.md, nemotron_h.md).

/// Groups, normalisation, factor: what all followers have in common.
inline models::Description deepseek_routing(Config const& c, models::Description d) {
  d.groups = int(c.size_or(first_key(c, {"num_expert_group", "n_group"}), 1));
  d.allowed_groups = int(c.size_or("topk_group", 1));
  normalize_by_sum(d, 1e-20f, norm_topk_prob(c));
  d.scale = routed_scaling_factor(c);
  return d;
}
inline MoeBlock deepseek_v3_block(Config const& c, int layer) {
  auto d = deepseek_routing(c, sizes_of(c, layer));
  auto const own = first_key(c, {"moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"});
  auto const width = c.size_or(own, index_t(d.intermediate));
  add_shared(d, offset_t(width) * count_of(c, {"num_shared_experts", "n_shared_experts"}));
  return {d.shared > 0 ? "DeepseekV3" : "DeepseekV3WithoutShared", d};
}
inline MoeBlock mimo_block(Config const& c, int layer) {
  return {"DeepseekV3WithoutShared", deepseek_routing(c, sizes_of(c, layer))};
}
inline MoeBlock beam_block(Config const& c, int layer) {
  auto block = mimo_block(c, layer);
  block.description.routed_scale = std::exchange(block.description.scale, 1.0f);
  return block;
}
inline MoeBlock axk1_block(Config const& c, int layer) {
  auto block = deepseek_v3_block(c, layer);
  if (block.description.shared == 0) unsupported(c, "n_shared_experts", "0", "1 or more");
  block.model = "Axk1";
  block.description.output_norm_epsilon = real(c, {"rms_norm_eps"}, 1e-6);
  return block;
}
inline MoeBlock axk2_block(Config const& c, int layer) {
  auto block = deepseek_v3_block(c, layer);
  block.description.outside = OutsideRank::zero;
  return block;
}
/// \tparam Shared whether the shared expert is clamped too
template <bool Shared> MoeBlock clamped_deepseek_block(Config const& c, int layer) {
  auto block = deepseek_v3_block(c, layer);
  if (block.description.shared == 0) unsupported(c, "n_shared_experts", "0", "1 or more");
  block.model = "Glm5Next";
  clamp_at(block.description.clamped, c.number_or("swiglu_limit", 0));
  if (Shared) block.description.shared_clamped = block.description.clamped;
  return block;
}

inline MoeBlock nemotron_h_block(Config const& c, int layer) {
  auto d = deepseek_routing(c, sizes_of(c, layer, "moe_intermediate_size", "mlp_hidden_act", "relu2"));
  add_shared(d, c.size("moe_shared_expert_intermediate_size"));
  d.latent = count_of(c, {"moe_latent_size"});
  return {d.latent > 0 ? "NemotronHLatent" : "NemotronH", d};
}
/// Its layers are mixers of several kinds: a list of names, or a string with a letter each.
inline std::vector<std::string> nemotron_h_layers(Config const& c) {
  std::vector<std::string> kinds;
  if (c.has("hybrid_override_pattern") && !c.has("layers_block_type") && !c.has("layer_types"))
    for (char const letter : c.string("hybrid_override_pattern")) kinds.push_back(letter == 'E' ? "moe" : "other");
  else
    kinds = c.strings_or_none(first_key(c, {"layers_block_type", "layer_types"}));
  require(kinds.size() <= std::size_t(io::most_layers), 433, c.name(), " has ", kinds.size(), " layers, expected 1 to ",
          io::most_layers);
  require(!kinds.empty(), 431, c.name(), " has neither layers_block_type nor hybrid_override_pattern");
  return kinds;
}
inline bool nemotron_h_sparse(Config const& c, int layer) {
  return of_layer(c, "layers_block_type", nemotron_h_layers(c), layer) == "moe";
}

inline constexpr TensorNames deepseek_v3_names{.selection_bias = "mlp.gate.e_score_correction_bias",
                                               .shared = shared_experts_names};
inline constexpr TensorNames without_shared_names{.selection_bias = "mlp.gate.e_score_correction_bias"};
inline constexpr NamedTensor axk1_others[] = {{"post_norm_weight", "post_mlp_layernorm.weight"}};
inline constexpr NamedTensor nemotron_h_others[] = {{"latent_in", "mixer.fc1_latent_proj.weight"},
                                                    {"latent_out", "mixer.fc2_latent_proj.weight"}};

inline constexpr Family deepseek_families[] = {
    {.model_type = "deepseek_v3",
     .source = "deepseek_v3",
     .defaults =
         R"({"norm_topk_prob": true, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3})",
     .names = deepseek_v3_names,
     .block = deepseek_v3_block,
     .sparse = after_dense},
    {.model_type = "deepseek_v32",
     .source = "deepseek_v32",
     .defaults =
         R"({"norm_topk_prob": true, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3})",
     .names = deepseek_v3_names,
     .block = deepseek_v3_block,
     .sparse = after_dense},
    {.model_type = "dots1",
     .source = "dots1",
     .names = deepseek_v3_names,
     .block = deepseek_v3_block,
     .sparse = after_dense},
    {.model_type = "glm4_moe",
     .source = "glm4_moe",
     .defaults = R"({"norm_topk_prob": true, "n_shared_experts": 1, "first_k_dense_replace": 1})",
     .names = deepseek_v3_names,
     .block = deepseek_v3_block,
     .sparse = after_dense},
    {.model_type = "glm4_moe_lite",
     .source = "glm4_moe_lite",
     .defaults =
         R"({"norm_topk_prob": true, "n_shared_experts": 1, "routed_scaling_factor": 1.8, "first_k_dense_replace": 1})",
     .names = deepseek_v3_names,
     .block = deepseek_v3_block,
     .sparse = after_dense},
    {.model_type = "glm4v_moe",
     .source = "glm4v_moe",
     .settings = "text_config",
     .defaults = R"({"norm_topk_prob": true, "n_shared_experts": 1, "first_k_dense_replace": 1})",
     .names = under(language_model, deepseek_v3_names),
     .block = deepseek_v3_block,
     .sparse = after_dense},
    {.model_type = "glm_moe_dsa",
     .source = "glm_moe_dsa",
     .defaults =
         R"({"norm_topk_prob": true, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "first_k_dense_replace": 3})",
     .names = deepseek_v3_names,
     .block = deepseek_v3_block,
     .sparse = after_dense},
    {.model_type = "solar_open",
     .source = "solar_open",
     .defaults = R"({"norm_topk_prob": true, "n_shared_experts": 1})",
     .names = deepseek_v3_names,
     .block = deepseek_v3_block},
    {.model_type = "bailing_hybrid",
     .source = "bailing_hybrid",
     .defaults =
         R"({"norm_topk_prob": true, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 2})",
     .names = with_selection_bias("mlp.gate.expert_bias", deepseek_v3_names),
     .block = deepseek_v3_block,
     .sparse = after_dense},
    {.model_type = "kimi_linear",
     .source = "kimi_linear",
     .defaults =
         R"({"norm_topk_prob": true, "n_shared_experts": 1, "routed_scaling_factor": 2.446, "first_k_dense_replace": 1})",
     .names = {.router = "block_sparse_moe.gate.weight",
               .selection_bias = "block_sparse_moe.gate.e_score_correction_bias",
               .experts = {.name = "block_sparse_moe.experts.{e}.{p}.weight", .gate = "w1", .up = "w3", .down = "w2"},
               .shared = {.name = "block_sparse_moe.shared_experts.{p}.weight"}},
     .block = deepseek_v3_block,
     .sparse = after_dense},
    {.model_type = "exaone_moe",
     .source = "exaone_moe",
     .defaults =
         R"({"norm_topk_prob": true, "num_shared_experts": 1, "routed_scaling_factor": 2.5, "first_k_dense_replace": 1})",
     .names = with_selection_bias("mlp.e_score_correction_bias", deepseek_v3_names),
     .block = deepseek_v3_block,
     .sparse = after_dense},
    {.model_type = "dots3_note",
     .source = "dots3_note",
     .settings = "text_config",
     .defaults =
         R"({"norm_topk_prob": true, "n_shared_experts": 1, "shared_experts_intermediate_size": 1536, "first_k_dense_replace": 1})",
     .names = deepseek_v3_names,
     .block = deepseek_v3_block,
     .sparse = after_dense},
    {.model_type = "axk2",
     .source = "axk2",
     .defaults =
         R"({"norm_topk_prob": true, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "first_k_dense_replace": 1})",
     .names = deepseek_v3_names,
     .block = axk2_block,
     .sparse = after_dense},
    {.model_type = "axk1",
     .source = "axk1",
     .defaults =
         R"({"norm_topk_prob": true, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 1})",
     .names = {.selection_bias = "mlp.gate.e_score_correction_bias",
               .shared = shared_experts_names,
               .others = axk1_others},
     .block = axk1_block,
     .sparse = after_dense},
    {.model_type = "glm5_next",
     .source = "glm5_next",
     .settings = "text_config",
     .defaults =
         R"({"norm_topk_prob": true, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "swiglu_limit": 10.0, "first_k_dense_replace": 3})",
     .names = under(language_model, deepseek_v3_names),
     .block = clamped_deepseek_block<true>,
     .sparse = after_dense},
    {.model_type = "hy_v4",
     .source = "hy_v4",
     .defaults =
         R"({"norm_topk_prob": true, "n_shared_experts": 1, "routed_scaling_factor": 2.827, "swiglu_limit": 10.0, "first_k_dense_replace": 1})",
     .names = deepseek_v3_names,
     .block = clamped_deepseek_block<false>,
     .sparse = after_dense},
    {.model_type = "mimo_v2_flash",
     .source = "mimo_v2_flash",
     .defaults = R"({"norm_topk_prob": true, "first_k_dense_replace": 1})",
     .names = without_shared_names,
     .block = mimo_block,
     .sparse = after_dense},
    {.model_type = "beam",
     .source = "beam",
     .defaults =
         R"({"norm_topk_prob": true, "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3})",
     .names = without_shared_names,
     .block = beam_block,
     .sparse = after_dense},
    {.model_type = "nemotron_h",
     .source = "nemotron_h",
     .defaults = R"({"norm_topk_prob": true})",
     .names = {.layer = "backbone.layers.{l}.",
               .router = "mixer.gate.weight",
               .selection_bias = "mixer.gate.e_score_correction_bias",
               .experts = {.name = "mixer.experts.{e}.{p}.weight", .gate = {}},
               .shared = {.name = "mixer.shared_experts.{p}.weight", .gate = {}},
               .others = nemotron_h_others},
     .block = nemotron_h_block,
     .sparse = nemotron_h_sparse,
     .stack = [](Config const& c) { return Layers{int(nemotron_h_layers(c).size())}; }},
};

} // namespace kokomo::inline v0::detail::families

#endif
