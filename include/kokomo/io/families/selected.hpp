// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_FAMILIES_SELECTED_HPP
#define KOKOMO_IO_FAMILIES_SELECTED_HPP

#include <kokomo/io/families/keys.hpp>
#include <kokomo/io/quantized.hpp>

namespace kokomo::inline v0::detail::families {

// Top-k of the logits, then the score function over the chosen ones; SparseMixer; capacity
// (docs/families/selected_softmax.md, llama4.md, phimoe.md, switch_transformers.md, nllb_moe.md).

/// Logits and weights in the storage type.
inline models::Description selected_sizes(Config const& c, int layer, std::string_view activation = "hidden_act") {
  auto d = sizes_of(c, layer, "intermediate_size", activation);
  d.round_logits = d.round_weights = true;
  return d;
}
inline void in_out(models::Description& d) {
  d.up_order = d.down_order = WeightOrder::in_out;
}

/// swiglu_alpha and swiglu_limit of GPT-OSS and its followers, up + 1.
inline ClampedSwiGlu gpt_oss_activation(Config const& c) {
  ClampedSwiGlu a{.alpha = float(c.number("swiglu_alpha")), .up_offset = 1};
  clamp_at(a, c.number_or("swiglu_limit", 0));
  return a;
}
inline MoeBlock gpt_oss_block(Config const& c, int layer) {
  auto d = selected_sizes(c, layer);
  d.router_bias = d.expert_bias = true;
  d.clamped = gpt_oss_activation(c);
  d.gate_up = GateUp::interleaved;
  bool const blocks = io::quantization_of(c).method == io::Quantization::Method::mxfp4; // those lie along the inputs
  if (!blocks) in_out(d);
  return {"GptOss", d};
}
inline MoeBlock privacy_filter_block(Config const& c, int layer) {
  auto block = gpt_oss_block(c, layer);
  auto& d = block.description;
  d.gate_up = GateUp::concatenated;
  d.round_logits = d.round_weights = false;
  d.scale = 1.0f / float(d.top_k);
  d.routed_scale = float(d.top_k);
  return block;
}
inline MoeBlock granitemoe_block(Config const& c, int layer) {
  return {"GraniteMoe", selected_sizes(c, layer)};
}
inline MoeBlock granitemoeshared_block(Config const& c, int layer) {
  auto d = selected_sizes(c, layer);
  add_shared(d, count_of(c, {"shared_intermediate_size"}));
  return {d.shared > 0 ? "GraniteMoeShared" : "GraniteMoe", d};
}
inline bool granitemoehybrid_sparse(Config const& c, int) {
  return count_of(c, {"num_local_experts"}) > 0;
}

inline MoeBlock aria_block(Config const& c, int layer) {
  auto d = selected_sizes(c, layer);
  in_out(d);
  add_shared(d, d.intermediate * count_of(c, {"moe_num_shared_experts"}));
  return {d.shared > 0 ? "GraniteMoeShared" : "GraniteMoe", d};
}
inline MoeBlock cohere2_block(Config const& c, int layer) {
  auto d = selected_sizes(c, layer);
  add_shared(d, d.intermediate * count_of(c, {"num_shared_experts"}));
  auto const combination = c.string_or("shared_expert_combination_strategy", "average");
  if (combination != "average" && combination != "sum")
    unsupported(c, "shared_expert_combination_strategy", combination, "average or sum");
  if (d.shared > 0 && combination == "average") d.output_scale = 0.5f;
  auto const selection = c.string_or("expert_selection_fn", "softmax");
  if (selection == "softmax") return {d.shared > 0 ? "GraniteMoeShared" : "GraniteMoe", d};
  if (selection != "sigmoid") unsupported(c, "expert_selection_fn", selection, "softmax or sigmoid");
  if (d.shared == 0) unsupported(c, "num_shared_experts", "0", "1 or more with sigmoid weights");
  normalize_by_sum(d, 0, norm_topk_prob(c));
  return {"Cohere2MoeSigmoid", d};
}

inline MoeBlock jetmoe_block(Config const& c, int layer) {
  auto d = selected_sizes(c, layer, "activation_function");
  d.output_bias = true;
  return {"GraniteMoe", d};
}
inline MoeBlock jetmoe_attention_block(Config const& c, int layer) {
  auto d = selected_sizes(c, layer, "activation_function");
  d.output_bias = true;
  d.intermediate = offset_t(c.size("kv_channels")) * c.size("num_key_value_heads");
  d.activation = ActivationKind::identity;
  return {"JetMoeAttention", d};
}

inline MoeBlock llama4_block(Config const& c, int layer) {
  auto d = selected_sizes(c, layer);
  in_out(d);
  add_shared(d, d.intermediate);
  return {"Llama4", d};
}
inline bool llama4_sparse(Config const& c, int layer) {
  auto const sparse = c.integers_or_none("moe_layers");
  if (c.has("moe_layers")) return std::find(sparse.begin(), sparse.end(), layer) != sparse.end();
  return (layer + 1) % c.integer_or("interleave_moe_layer_step", 1, 1) == 0;
}

inline MoeBlock phimoe_block(Config const& c, int layer) {
  auto d = selected_sizes(c, layer);
  if (d.top_k != 2) unsupported(c, "num_experts_per_tok", std::to_string(d.top_k), "2");
  d.sparse_mixer_epsilon = float(c.number("router_jitter_noise"));
  return {"PhiMoe", d};
}

inline Layers encoder_decoder(Config const& c, std::string_view encoder, std::string_view decoder) {
  auto const first = c.integer(encoder, 1, io::most_layers);
  return {int(first), int(c.integer_or(decoder, first, 0, io::most_layers))};
}
inline Layers switch_layers(Config const& c) {
  return encoder_decoder(c, "num_layers", "num_decoder_layers");
}
inline Layers nllb_layers(Config const& c) {
  return encoder_decoder(c, "encoder_layers", "decoder_layers");
}

inline MoeBlock switch_block(Config const& c, int) {
  models::Description d;
  d.hidden = c.size("d_model");
  d.intermediate = c.size("d_ff");
  d.experts = c.size("num_experts");
  d.activation = activation_of(c, "dense_act_fn", "relu");
  d.router_bias = c.boolean_or("router_bias", false);
  d.round_scores = d.round_weights = true;
  d.capacity = c.size("expert_capacity");
  return {"SwitchTransformers", d};
}
inline bool switch_sparse(Config const& c, int layer) {
  auto const [encoder, decoder] = switch_layers(c);
  bool const in_encoder = layer < encoder;
  auto const count = in_encoder ? encoder : decoder;
  auto const sparse = c.integer(in_encoder ? "num_sparse_encoder_layers" : "num_sparse_decoder_layers", 0);
  if (sparse == 0) return false;
  auto const step = count / sparse;
  return step == 1 || (step > 0 && (in_encoder ? layer : layer - encoder) % step == 1);
}
inline MoeBlock nllb_block(Config const& c, int layer) {
  models::Description d;
  d.hidden = c.size("d_model");
  d.intermediate = c.size(layer < nllb_layers(c).first ? "encoder_ffn_dim" : "decoder_ffn_dim");
  d.experts = c.size("num_experts");
  d.top_k = 2;
  d.activation = activation_of(c, "activation_function", "relu");
  d.router_bias = c.boolean_or("router_bias", false);
  d.expert_bias = d.round_weights = true;
  if (auto const second = c.string_or("second_expert_policy", "all"); second != "all")
    unsupported(c, "second_expert_policy", second, "all");
  d.normalize = Normalize::sum_clamp_min;
  d.normalize_epsilon = std::numeric_limits<float>::epsilon();
  bool const before = c.boolean_or("normalize_router_prob_before_dropping", false);
  d.drops = before ? Drops::keep_share : Drops::renormalize;
  bool const prioritized = c.boolean_or("batch_prioritized_routing", false);
  d.capacity_order = prioritized ? CapacityOrder::token_priority : CapacityOrder::position;
  d.capacity_fraction = std::max(c.number("moe_eval_capacity_token_fraction"), 0.0);
  if (d.capacity_fraction == 0) d.capacity = c.size("expert_capacity");
  d.routed_scale = 1 - float(c.number("moe_token_dropout"));
  return {"NllbMoe", d};
}
inline bool nllb_sparse(Config const& c, int layer) {
  auto const encoder = nllb_layers(c).first;
  bool const in_encoder = layer < encoder;
  auto const step = c.integer(in_encoder ? "encoder_sparse_step" : "decoder_sparse_step", 0);
  return step > 0 && ((in_encoder ? layer : layer - encoder) + 1) % step == 0;
}

inline constexpr ProjectionNames granite_experts{
    .name = "block_sparse_moe.{p}.weight", .down = "output_linear", .gate_up = "input_linear"};
inline constexpr TensorNames granitemoe_names{.router = "block_sparse_moe.router.layer.weight",
                                              .experts = granite_experts};
inline constexpr TensorNames granitemoeshared_names{
    .router = "block_sparse_moe.router.layer.weight",
    .experts = granite_experts,
    .shared = {.name = "shared_mlp.{p}.weight", .down = "output_linear", .gate_up = "input_linear"}};
inline constexpr TensorNames gpt_oss_names{
    .router = "mlp.router.weight",
    .router_bias = "mlp.router.bias",
    .experts = {.name = "mlp.experts.{p}", .gate_up = "gate_up_proj", .bias = "mlp.experts.{p}_bias"}};
inline constexpr NamedTensor jetmoe_others[] = {{"output_bias", "mlp.bias"}};
inline constexpr NamedTensor jetmoe_attention_others[] = {{"output_bias", "self_attention.experts.bias"}};

inline constexpr Family selected_families[] = {
    {.model_type = "gpt_oss",
     .source = "gpt_oss",
     .defaults = R"({"swiglu_alpha": 1.702, "swiglu_limit": 7.0})",
     .names = gpt_oss_names,
     .block = gpt_oss_block},
    {.model_type = "openai_privacy_filter",
     .source = "openai_privacy_filter",
     .defaults = R"({"swiglu_alpha": 1.702, "swiglu_limit": 7.0})",
     .names = gpt_oss_names,
     .block = privacy_filter_block},
    {.model_type = "granitemoe", .source = "granitemoe", .names = granitemoe_names, .block = granitemoe_block},
    {.model_type = "granitemoeshared",
     .source = "granitemoeshared",
     .names = granitemoeshared_names,
     .block = granitemoeshared_block},
    {.model_type = "granitemoehybrid",
     .source = "granitemoehybrid",
     .defaults = R"({"shared_intermediate_size": 1024})",
     .names = granitemoeshared_names,
     .block = granitemoeshared_block,
     .sparse = granitemoehybrid_sparse},
    {.model_type = "granitemoe_swa",
     .source = "granitemoe_swa",
     .names = granitemoeshared_names,
     .block = granitemoeshared_block},
    {.model_type = "aria",
     .source = "aria",
     .settings = "text_config",
     .defaults = R"({"moe_num_shared_experts": 2})",
     .names = {.layer = "language_model.model.layers.{l}.",
               .router = "mlp.router.weight",
               .experts = {.name = "mlp.experts.{p}.weight", .down = "fc2", .gate_up = "fc1"},
               .shared = shared_experts_names},
     .block = aria_block},
    {.model_type = "cohere2_moe",
     .source = "cohere2_moe",
     .defaults = R"({"norm_topk_prob": true})",
     .names = {.shared = shared_experts_names},
     .block = cohere2_block,
     .sparse = after_dense},
    {.model_type = "jetmoe",
     .source = "jetmoe",
     .names = {.router = "mlp.router.layer.weight",
               .experts = {.name = "mlp.{p}.weight", .down = "output_linear", .gate_up = "input_linear"},
               .others = jetmoe_others},
     .block = jetmoe_block},
    {.model_type = "jetmoe/attention",
     .source = "jetmoe",
     .names = {.router = "self_attention.experts.router.layer.weight",
               .experts = {.name = "self_attention.experts.{p}.weight",
                           .gate = {},
                           .up = "input_linear",
                           .down = "output_linear"},
               .others = jetmoe_attention_others},
     .block = jetmoe_attention_block},
    {.model_type = "llama4",
     .source = "llama4",
     .settings = "text_config",
     .names = {.layer = "language_model.model.layers.{l}.",
               .router = "feed_forward.router.weight",
               .experts = {.name = "feed_forward.experts.{p}", .gate_up = "gate_up_proj"},
               .shared = {.name = "feed_forward.shared_expert.{p}.weight"}},
     .block = llama4_block,
     .sparse = llama4_sparse},
    {.model_type = "phimoe",
     .source = "phimoe",
     .defaults = R"({"router_jitter_noise": 0.01})",
     .names = {.router = "block_sparse_moe.gate.weight",
               .experts = {.name = "block_sparse_moe.experts.{e}.{p}.weight", .gate = "w1", .up = "w3", .down = "w2"}},
     .block = phimoe_block},
    {.model_type = "switch_transformers",
     .source = "switch_transformers",
     .defaults = R"({"expert_capacity": 64, "num_sparse_encoder_layers": 3, "num_sparse_decoder_layers": 3})",
     .names = {.layer = "encoder.block.{l}.layer.1.",
               .decoder_layer = "decoder.block.{l}.layer.2.",
               .router = "mlp.router.classifier.weight",
               .router_bias = "mlp.router.classifier.bias",
               .experts = {.name = "mlp.experts.expert_{e}.{p}.weight", .gate = {}, .up = "wi", .down = "wo"}},
     .block = switch_block,
     .sparse = switch_sparse,
     .stack = switch_layers},
    {.model_type = "nllb-moe",
     .source = "nllb_moe",
     .defaults =
         R"({"expert_capacity": 64, "encoder_sparse_step": 4, "decoder_sparse_step": 4, "moe_eval_capacity_token_fraction": 1.0, "moe_token_dropout": 0.2})",
     .names = {.layer = "model.encoder.layers.{l}.",
               .decoder_layer = "model.decoder.layers.{l}.",
               .router = "ffn.router.classifier.weight",
               .router_bias = "ffn.router.classifier.bias",
               .experts = {.name = "ffn.experts.expert_{e}.{p}.weight",
                           .gate = {},
                           .up = "fc1",
                           .down = "fc2",
                           .bias = "ffn.experts.expert_{e}.{p}.bias"}},
     .block = nllb_block,
     .sparse = nllb_sparse,
     .stack = nllb_layers},
};

} // namespace kokomo::inline v0::detail::families

#endif
