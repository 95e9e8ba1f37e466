// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_FAMILIES_KEYS_HPP
#define KOKOMO_IO_FAMILIES_KEYS_HPP

#include <kokomo/io/families/family.hpp>

#include <algorithm>
#include <initializer_list>
#include <utility>

namespace kokomo::inline v0::detail::families {

// How configurations are read. Families and versions of one family call a setting by several names; a function reads
// the first that is there, the one that Family::defaults may hold being the last. Keys and defaults:
// transformers 5.23.0, models/*/configuration_*.py.

using io::Config;
using io::Family;
using io::Layers;
using io::MoeBlock;
using io::NamedTensor;
using io::ProjectionNames;
using io::TensorNames;

/// The first of `keys` that `c` has, or the first of all, which the getters then miss.
inline std::string_view first_key(Config const& c, std::initializer_list<std::string_view> keys) {
  auto const found = std::find_if(keys.begin(), keys.end(), [&](auto key) { return c.has(key); });
  return found == keys.end() ? *keys.begin() : *found;
}

/// One entry of a list that has one for each layer.
template <class T> T of_layer(Config const& c, std::string_view key, std::vector<T> const& list, int layer) {
  require(std::cmp_less(layer, list.size()), 433, c.name(), ": ", key, " has ", list.size(),
          " entries, expected one for layer ", layer);
  return list[std::size_t(layer)];
}

/// An extent, or a list of them with one for each layer.
inline index_t layer_size(Config const& c, std::string_view key, int layer) {
  if (!c.has(key) || !c.json().at(key).is_array()) return c.size(key);
  auto const value = of_layer(c, key, c.integers_or_none(key), layer);
  require(value >= 1 && std::in_range<index_t>(value), 433, c.name(), ": ", key, " is ", value, " for layer ", layer,
          ", expected 1 to ", std::numeric_limits<index_t>::max());
  return index_t(value);
}

inline std::string_view key_of_experts(Config const& c) {
  return first_key(c, {"num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"});
}
inline std::string_view key_of_top_k(Config const& c) {
  return first_key(c,
                   {"num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"});
}

/// A value that no policy computes.
[[noreturn]] inline void unsupported(Config const& c, std::string_view key, std::string_view value,
                                     std::string_view expected) {
  fail(435, c.name(), ": ", key, " is ", printable(value), ", expected ", expected);
}

/// hidden_act and its kin. silu and swish are one function, so are gelu_pytorch_tanh and gelu_new.
inline ActivationKind activation_of(Config const& c, std::string_view key, std::string fallback) {
  static constexpr std::pair<std::string_view, ActivationKind> known[] = {
      {"silu", ActivationKind::silu},          {"swish", ActivationKind::silu},
      {"gelu", ActivationKind::gelu},          {"gelu_python", ActivationKind::gelu},
      {"gelu_new", ActivationKind::gelu_tanh}, {"gelu_pytorch_tanh", ActivationKind::gelu_tanh},
      {"relu", ActivationKind::relu},          {"relu2", ActivationKind::squared_relu},
      {"linear", ActivationKind::identity},
  };
  auto const name = c.string_or(key, std::move(fallback));
  for (auto const& [activation, kind] : known)
    if (name == activation) return kind;
  unsupported(c, key, name, "silu, swish, gelu, gelu_python, gelu_new, gelu_pytorch_tanh, relu, relu2 or linear");
}

inline float real(Config const& c, std::initializer_list<std::string_view> keys, double fallback) {
  return float(c.number_or(first_key(c, keys), fallback));
}

/// Sizes and activation. \param width the key of the experts' intermediate size
inline models::Description sizes_of(Config const& c, int layer, std::string_view width = "moe_intermediate_size",
                                    std::string_view activation = "hidden_act", std::string default_act = "silu") {
  if (c.boolean_or("mlp_bias", false)) unsupported(c, "mlp_bias", "true", "false");
  models::Description d;
  d.hidden = c.size(first_key(c, {"hidden_size", "d_model"}));
  d.intermediate = layer_size(c, width, layer);
  d.experts = layer_size(c, key_of_experts(c), layer);
  d.top_k = layer_size(c, key_of_top_k(c), layer);
  d.activation = d.shared_activation = activation_of(c, activation, std::move(default_act));
  return d;
}

/// One shared expert of that width; none where it is zero.
inline void add_shared(models::Description& d, offset_t width) {
  d.shared = width > 0 ? 1 : 0;
  d.shared_intermediate = width;
}

/// A number of 0 and more; 0 where it is absent.
inline index_t count_of(Config const& c, std::initializer_list<std::string_view> keys) {
  return index_t(c.integer_or(first_key(c, keys), 0, 0, std::numeric_limits<index_t>::max()));
}

/// s / (sum + epsilon), or s where norm_topk_prob says no.
inline void normalize_by_sum(models::Description& d, float epsilon, bool normalize = true) {
  if (!normalize) return;
  d.normalize = epsilon > 0 ? Normalize::sum_plus_epsilon : Normalize::sum;
  d.normalize_epsilon = epsilon;
}
inline bool norm_topk_prob(Config const& c) {
  return c.boolean_or(first_key(c, {"moe_renormalize", "norm_topk_prob"}), false);
}

/// The factor of the weights, or of the routed output.
inline float routed_scaling_factor(Config const& c) {
  return real(c,
              {"routed_scaling_factor", "router_scaling_factor", "moe_routed_scaling_factor",
               "moe_router_scaling_factor", "route_scale"},
              1);
}

/// Both clamps at a limit; 0: none.
inline void clamp_at(ClampedSwiGlu& a, double limit) {
  if (limit != 0) a.gate_max = a.up_limit = float(limit);
}

// Which layers are MoE blocks.

/// qwen2_moe: every decoder_sparse_step-th layer but those in mlp_only_layers.
inline bool by_step(Config const& c, int layer) {
  auto const dense = c.integers_or_none("mlp_only_layers");
  auto const step = c.integer_or("decoder_sparse_step", 1, 1);
  return std::find(dense.begin(), dense.end(), layer) == dense.end() && (layer + 1) % step == 0 &&
         c.integer_or(key_of_experts(c), 1) > 0;
}

/// mlp_layer_types where it is there; else all layers behind the first dense ones, or every moe_layer_freq-th of them.
inline bool after_dense(Config const& c, int layer) {
  if (c.has("mlp_layer_types"))
    return of_layer(c, "mlp_layer_types", c.strings_or_none("mlp_layer_types"), layer) == "sparse";
  if (layer < count_of(c, {"dense_mlp_idx", "num_dense_layers", "first_k_dense_replace"})) return false;
  if (c.has("moe_layer_freq") && c.json().at("moe_layer_freq").is_array())
    return of_layer(c, "moe_layer_freq", c.integers_or_none("moe_layer_freq"), layer) != 0;
  return layer % c.integer_or("moe_layer_freq", 1, 1) == 0;
}

// Names that many families share.

inline constexpr std::string_view language_model = "model.language_model.layers.{l}.";
inline constexpr ProjectionNames shared_expert_names{.name = "mlp.shared_expert.{p}.weight"};
inline constexpr ProjectionNames shared_experts_names{.name = "mlp.shared_experts.{p}.weight"};

constexpr TensorNames under(std::string_view layer, TensorNames names) {
  names.layer = layer;
  return names;
}
constexpr TensorNames with_selection_bias(std::string_view name, TensorNames names) {
  names.selection_bias = name;
  return names;
}

} // namespace kokomo::inline v0::detail::families

#endif
