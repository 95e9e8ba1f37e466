// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "reference.hpp"

#include <cmath>
#include <cstdio>

using kokomo::index_t;
using kokomo::offset_t;
using nlohmann::json;

namespace {

std::string const& text_of(std::map<std::string, std::string> const& metadata, char const* key) {
  auto const found = metadata.find(key);
  if (found == metadata.end()) throw std::runtime_error(std::string("the file's metadata has no ") + key);
  return found->second;
}

/// A key's value, or the fallback where it is missing or null.
template <class V> V value(json const& config, char const* key, V fallback) {
  auto const found = config.find(key);
  return found == config.end() || found->is_null() ? fallback : found->template get<V>();
}

kokomo::ActivationKind activation(std::string const& name) {
  using K = kokomo::ActivationKind;
  static std::map<std::string, K> const kinds{
      {"silu", K::silu},          {"gelu", K::gelu},         {"gelu_tanh", K::gelu_tanh}, {"relu", K::relu},
      {"relu2", K::squared_relu}, {"identity", K::identity}, {"swiglu_alpha", K::silu},   {"softcapped_silu", K::silu}};
  auto const found = kinds.find(name);
  if (found == kinds.end()) throw std::runtime_error("unknown activation " + name);
  return found->second;
}

kokomo::Normalize normalize(json const& config) {
  using N = kokomo::Normalize;
  static std::map<std::string, N> const kinds{{"sum", N::sum},
                                              {"sum_plus_eps", N::sum_plus_epsilon},
                                              {"sum_clamp_min", N::sum_clamp_min},
                                              {"p_norm", N::p_norm},
                                              {"joint_with_shared", N::none}};
  if (!value(config, "norm_topk_prob", false)) return N::none;
  std::string const kind = value(config, "norm_kind", std::string("sum"));
  if (kind == "p_norm" && config.at("weight_norm_p").is_null()) return N::none;
  auto const found = kinds.find(kind);
  if (found == kinds.end()) throw std::runtime_error("unknown norm_kind " + kind);
  return found->second;
}

kokomo::ClampedSwiGlu clamped(json const& config, char const* gate_max, char const* up_limit, bool with_alpha) {
  kokomo::ClampedSwiGlu a;
  if (with_alpha) a.alpha = value(config, "swiglu_alpha", 1.0f), a.up_offset = value(config, "up_offset", 0.0f);
  a.gate_max = value(config, gate_max, a.gate_max);
  a.up_limit = value(config, up_limit, a.up_limit);
  if (value(config, "clamp", std::string()) == "after_activation") a.clamp = kokomo::Clamp::after_activation;
  return a;
}

} // namespace

Reference::Reference(std::string const& path) : m_file(path) {
  auto const& metadata = m_file.metadata();
  m_family = text_of(metadata, "family");
  m_config = json::parse(text_of(metadata, "config"));
  json const roles = json::parse(text_of(metadata, "roles"));
  for (auto const& [role, name] : roles.items()) m_roles[role] = name;
  for (auto const& [role, name] :
       {std::pair{"router_weight", "gate.weight"}, {"gate_up", "experts.gate_up_proj"}, {"down", "experts.down_proj"}})
    if (roles.empty()) // a file without roles names its tensors alike
      if (m_file.find(name) != nullptr) m_roles[role] = name;
  m_bfloat16 = text_of(metadata, "dtype") == "bfloat16";
  m_tokens = value(m_config, "tokens", offset_t(0));
}

std::string Reference::name_of_role(std::string_view role, std::string const& prefix) const {
  auto const found = m_roles.find(prefix + std::string(role));
  return found == m_roles.end() ? std::string() : found->second;
}

kokomo::io::TensorInfo const* Reference::of_role(std::string_view role, std::string const& prefix) const {
  std::string const name = name_of_role(role, prefix);
  return name.empty() ? nullptr : &m_file.at(name);
}

kokomo::models::Description Reference::describe() const {
  json const& c = m_config;
  kokomo::models::Description d;
  d.hidden = c.at("hidden_size");
  if (c.at("expert_intermediate_size").is_number()) d.intermediate = c.at("expert_intermediate_size");
  if (c.contains("query_size")) d.intermediate = c.at("query_size"); // attention experts
  d.experts = c.at("num_experts");
  d.top_k = c.at("top_k");

  d.router_bias = value(c, "router_bias", false);
  d.round_logits = value(c, "router_dtype", std::string("input")) == "input";
  d.round_scores = value(c, "selection", std::string()) == "argmax_capacity";
  d.logit_multiplier = value(c, "router_logit_multiplier", 1.0f);
  d.logit_softcap = value(c, "router_logit_softcap", 0.0f);
  d.router_norm_epsilon = value(c, "router_norm_eps", value(c, "router_mlp_norm_eps", 1e-6f));
  d.router_state_size = value(c, "router_hidden_size", offset_t(0));
  d.previous_router_states = value(c, "uses_previous_router_states", false);
  d.tokens_interleaved = value(c, "selection", std::string()) == "product_key";
  d.groups = value(c, "n_group", 1);
  d.allowed_groups = value(c, "topk_group", 1);
  d.group_score =
      value(c, "group_score", std::string("max")) == "max" ? kokomo::GroupScore::max : kokomo::GroupScore::top2_sum;
  bool const outside_is_zero = c.contains("group_mask_value") && c.at("group_mask_value").is_number();
  d.outside = outside_is_zero ? kokomo::OutsideRank::zero : kokomo::OutsideRank::minus_infinity;
  d.vocabulary = value(c, "vocab_size", offset_t(0));
  d.sparse_mixer_epsilon = value(c, "sparsemixer_jitter_eps", 0.01f);

  d.normalize = normalize(c);
  d.normalize_epsilon = value(c, "norm_eps", 0.0f);
  d.normalize_p = value(c, "weight_norm_p", 1.0f);
  float const scaling = value(c, "routed_scaling_factor", 1.0f);
  bool const scales_weight = value(c, "scaling_applied_to", std::string("weight")) == "weight";
  d.scale = scales_weight ? scaling : 1.0f;
  d.routed_scale = scales_weight ? 1.0f : scaling;
  if (value(c, "weight_divided_by_top_k", false)) d.scale /= float(d.top_k);
  if (value(c, "output_multiplied_by_top_k", false)) d.routed_scale *= float(d.top_k);
  d.expert_scales = value(c, "per_expert_scale", false);
  d.round_weights = value(c, "weight_dtype", std::string("input")) == "input";
  d.drops = value(c, "selection", std::string()) == "top2_capacity" && !value(c, "normalize_before_dropping", false)
                ? kokomo::Drops::renormalize
                : kokomo::Drops::keep_share;

  d.capacity = value(c, "capacity", offset_t(0));
  if (value(c, "batch_prioritized_routing", false)) d.capacity_order = kokomo::CapacityOrder::token_priority;
  if (value(c, "capacity_scope", std::string()) == "sequence") d.tokens_per_sequence = c.at("batch_shape").at(1);

  d.activation = activation(value(c, "activation", std::string("silu")));
  d.clamped = clamped(c, "gate_max", "up_limit", true);
  d.softcapped.gate_cap = value(c, "gate_softcap", 1.0f);
  d.softcapped.up_cap = value(c, "up_softcap", 1.0f);
  std::string const storage = value(c, "gate_up_layout", std::string("concatenated"));
  std::string const order = value(c, "weight_layout", std::string("out_in"));
  bool const one_tensor_an_expert = m_roles.count("down.0") > 0;
  if (storage == "interleaved") d.gate_up = kokomo::GateUp::interleaved;
  if (storage == "separate" && !one_tensor_an_expert) d.gate_up = kokomo::GateUp::separate;
  if (order == "in_out") d.up_order = d.down_order = kokomo::WeightOrder::in_out;
  if (order == "dbrx") d.down_order = kokomo::WeightOrder::in_out;
  d.expert_bias = value(c, "expert_bias", false);
  d.identity_experts = value(c, "num_identity_experts", index_t(0));
  d.zero_experts = c.contains("skip_expert") ? 1 : 0;
  d.row_norm_epsilon = value(c, "post_norm_eps", 1e-8f);
  d.row_norm_offset = value(c, "norm_weight_offset", 0.0f);

  d.latent = value(c, "latent_size", offset_t(0));
  d.latent_norm = m_roles.count("latent_norm_weight") > 0;
  d.space_norm_epsilon = value(c, "expert_norm_eps", 1e-6f);
  d.space_norm_offset = value(c, "norm_weight_offset", 0.0f);

  // Published blocks store several shared experts as one wide one, except where the gate weighs each.
  bool const weighed = value(c, "shared_gate", std::string()) == "joint";
  d.shared = weighed ? index_t(c.at("num_shared_experts")) : index_t(1);
  d.shared_intermediate = value(c, "shared_intermediate_size", offset_t(0));
  std::string const shared_activation = value(c, "shared_activation", std::string("silu"));
  d.shared_activation = activation(shared_activation);
  d.shared_clamped = clamped(c, "shared_gate_max", "shared_up_limit", shared_activation == "swiglu_alpha");

  d.output_scale = value(c, "shared_combine", std::string("sum")) == "average" ? 0.5f : 1.0f;
  d.output_bias = value(c, "output_bias", false);
  d.output_norm_epsilon = value(c, "post_norm_eps", 1e-6f);
  d.output_norm_offset = value(c, "norm_weight_offset", 0.0f);
  return d;
}

namespace {

double norm(std::vector<double> const& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return std::sqrt(sum);
}

double distance(std::vector<double> const& a, std::vector<double> const& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

} // namespace

void Comparison::fail(std::string const& reason) {
  if (m_reason.empty()) m_reason = reason;
}

void Comparison::record(std::string const& name, double relative, double bound) {
  ++m_compared;
  bool const within = relative <= bound; // false for NaN
  double const share = std::isnan(relative) ? 1e300 : relative / bound;
  if (share > m_worst_share) m_worst_share = share, m_worst = relative, m_worst_name = name;
  if (!within) fail(name + " is beyond its bound");
}

void Comparison::output(std::string const& name, std::vector<double> const& got, std::vector<double> const& expected) {
  if (got.size() != expected.size()) return fail(name + " has another size");
  double const scale = norm(expected);
  record(name, scale > 0 ? distance(got, expected) / scale : norm(got), m_output_bound);
}

void Comparison::gradient(std::string const& name, std::vector<double> got, std::vector<double> expected) {
  if (got.size() != expected.size()) return fail(name + " has another size");
  m_gradients.push_back({name, distance(got, expected), norm(expected)});
}

void Comparison::finish() {
  double largest = 0;
  for (auto const& g : m_gradients) largest = std::max(largest, g.norm);
  for (auto const& g : m_gradients) {
    // what is left of a gradient that cancels is rounding noise: some 1e-7 of what it cancels from in float32
    double const scale = std::max(g.norm, 1e-3 * largest);
    record(g.name, scale > 0 ? g.error / scale : g.error, m_gradient_bound);
  }
  if (m_compared == 0) fail("nothing to compare");
}

std::string Comparison::summary() const {
  char text[400];
  if (m_compared > 0)
    std::snprintf(text, sizeof text, "%-4s worst %.2e at %s (%d tensors)%s%s", passed() ? "ok" : "FAIL", m_worst,
                  m_worst_name.c_str(), m_compared, passed() ? "" : ": ", m_reason.c_str());
  else
    std::snprintf(text, sizeof text, "FAIL %s", m_reason.c_str());
  return text;
}
