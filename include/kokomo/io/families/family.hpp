// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_FAMILIES_FAMILY_HPP
#define KOKOMO_IO_FAMILIES_FAMILY_HPP

#include <kokomo/error.hpp>
#include <kokomo/io/config.hpp>
#include <kokomo/models/description.hpp>

#include <limits>
#include <span>
#include <string>
#include <string_view>

namespace kokomo::inline v0::io {

/// Names of the matrices of experts. `name` holds {p} for the projection, and {e} where every expert has tensors of its
/// own.
struct ProjectionNames {
  std::string_view name = {};
  std::string_view gate = "gate_proj"; ///< empty for plain experts
  std::string_view up = "up_proj";
  std::string_view down = "down_proj";
  std::string_view gate_up = {}; ///< where gate and up are one tensor; then there is neither of them
  std::string_view bias = {};    ///< as `name`; empty: none
};

/// A tensor that only some families have.
struct NamedTensor {
  std::string_view role;
  std::string_view name;
};

/// How a family's tensors are called in a published checkpoint, behind the name of their layer.
struct TensorNames {
  std::string_view layer = "model.layers.{l}.";
  std::string_view decoder_layer = {}; ///< of encoder-decoder models, whose encoder layers are called `layer`
  std::string_view router = "mlp.gate.weight";
  std::string_view router_bias = {};
  std::string_view selection_bias = {};
  ProjectionNames experts = {.name = "mlp.experts.{e}.{p}.weight"};
  ProjectionNames shared = {};
  std::span<NamedTensor const> others = {};
};

/// What a configuration makes of one layer: the composition, and its settings.
struct MoeBlock {
  std::string_view model;          ///< an alias of kokomo::models
  models::Description description; ///< see there
};

/// Real models have some hundred layers; the bound keeps a made-up configuration from costing hours.
inline constexpr int most_layers = 4096;

/// Layers of a model: of its encoder, then of its decoder; a model with one stack has them all in `first`.
struct Layers {
  int first = 0;
  int second = 0;
};

/// One published family: how its config.json reads and how its tensors are called. The families are data
/// (`io/families/`); functions take the configuration as the file has it.
struct Family {
  std::string_view model_type;      ///< of config.json; behind a '/' the part of the model, if not its language model
  std::string_view source;          ///< folder of transformers/models in which keys and names were read
  std::string_view settings = {};   ///< keys on the way to the object that describes the layers, such as text_config
  std::string_view defaults = "{}"; ///< JSON: what transformers takes where the file has no such key; no sizes
  TensorNames names = {};

  MoeBlock (*block)(Config const& settings, int layer) = nullptr;
  bool (*sparse)(Config const& settings, int layer) = [](Config const&, int) { return true; };
  Layers (*stack)(Config const& settings) = [](Config const& settings) {
    char const* const key = settings.has("n_layers") ? "n_layers" : "num_layers";
    return Layers{int(settings.integer(settings.has(key) ? key : "num_hidden_layers", 1, most_layers))};
  };

  /// The part of a configuration that describes the layers, over the defaults. A text-only configuration is that part.
  Config settings_of(Config const& config) const {
    Config part = config;
    for (std::size_t begin = 0; begin < settings.size();) {
      auto const end = std::min(settings.find('.', begin), settings.size());
      auto const key = settings.substr(begin, end - begin);
      if (part.has(key)) part = part.object(key);
      begin = end + 1;
    }
    auto values = nlohmann::json::parse(defaults);
    values.update(part.json());
    return {std::move(values), part.name()};
  }

  /// The alias of kokomo::models that a layer's block is an instance of: "Mixtral", "DeepseekV3WithoutShared", ...
  std::string_view model(Config const& config, int layer) const { return at(config, layer).model; }

  /// The settings of a layer's block. They describe the layer's own storage: experts with tensors of their own are
  /// concatenated by the loader, one tensor of all keeps its layout.
  /// \throws Error 431 to 433 for keys that are missing, of another type or out of range, 435 for values that no policy
  ///         computes, 436 for a layer that the model does not have
  models::Description describe(Config const& config, int layer) const { return at(config, layer).description; }

  /// Whether a layer is an MoE block; the others are dense.
  bool is_sparse(Config const& config, int layer) const {
    auto const part = settings_of(config);
    check_layer(part, layer);
    return sparse(part, layer);
  }

  /// Number of layers, dense ones included; an encoder's come before its decoder's.
  int layers(Config const& config) const {
    auto const both = stack(settings_of(config));
    return both.first + both.second;
  }

  /// Whether every expert has tensors of its own in the checkpoint.
  bool one_tensor_an_expert() const { return names.experts.name.find("{e}") != std::string_view::npos; }

private:
  MoeBlock at(Config const& config, int layer) const {
    auto const part = settings_of(config);
    check_layer(part, layer);
    return block(part, layer);
  }
  void check_layer(Config const& part, int layer) const {
    auto const both = stack(part);
    detail::require(layer >= 0 && layer < both.first + both.second, 436, part.name(), " has no layer ", layer,
                    ", expected 0 to ", both.first + both.second - 1);
  }
};

} // namespace kokomo::inline v0::io

namespace kokomo::inline v0::detail {

/// `pattern` with every `mark` replaced.
inline std::string replaced(std::string pattern, std::string_view mark, std::string_view by) {
  for (auto at = pattern.find(mark); at != std::string::npos; at = pattern.find(mark, at + by.size()))
    pattern.replace(at, mark.size(), by);
  return pattern;
}

/// The name of one projection. \param projection gate_proj, up_proj, down_proj (or down) or gate_up, or the same
/// bare of _proj with _bias
inline std::string projection_name(io::ProjectionNames const& names, std::string_view projection) {
  bool const bias = projection.ends_with("_bias");
  if (bias) projection.remove_suffix(5);
  if (projection.ends_with("_proj")) projection.remove_suffix(5);
  std::string_view part;
  if (projection == "gate_up") part = names.gate_up;
  if (projection == "gate" && names.gate_up.empty()) part = names.gate;
  if (projection == "up" && names.gate_up.empty()) part = names.up;
  if (projection == "down") part = names.down;
  auto const& pattern = bias ? names.bias : names.name;
  return part.empty() || pattern.empty() ? "" : replaced(std::string(pattern), "{p}", part);
}

/// What is behind a tensor's name where quantised checkpoints have two or three tensors for it.
inline constexpr std::string_view quantized_suffixes[] = {"_blocks", "_scales", "_scale_inv"};

/// What a role is called behind its layer's name, with {e} left in.
inline std::string role_pattern(io::TensorNames const& names, std::string_view role) {
  for (auto const suffix : quantized_suffixes) {
    if (!role.ends_with(suffix)) continue;
    auto const whole = role_pattern(names, role.substr(0, role.size() - suffix.size()));
    return whole.empty() ? whole : whole + std::string(suffix);
  }
  for (auto const& [other, name] : names.others)
    if (role == other) return std::string(name);
  if (role == "router_weight") return std::string(names.router);
  if (role == "router_bias") return std::string(names.router_bias);
  if (role == "selection_bias") return std::string(names.selection_bias);
  if (role.starts_with("shared_")) return projection_name(names.shared, role.substr(7));
  return projection_name(names.experts, role);
}

} // namespace kokomo::inline v0::detail

namespace kokomo::inline v0::io {

/// The name of a tensor in the checkpoint; empty if the family has no such tensor. Whether a configuration has it
/// follows from its description: without shared experts there are no shared tensors.
///
/// \param role router_weight, router_bias, selection_bias; gate_up or gate_proj and up_proj, down; gate_up_bias, ...,
///             down_bias; with ".3" behind it for expert 3 where experts have tensors of their own, and only there;
///             shared_gate_proj, shared_up_proj, shared_down_proj, shared_gate_up, shared_expert_gate; output_bias,
///             hash_table, latent_in, latent_out, latent_norm_weight, post_expert_norm_weight, post_norm_weight,
///             router_scale, per_expert_scale, expert_norm_weight, global_scale; the roles of matrices with _blocks,
///             _scales or _scale_inv behind them, before the expert, for what quantised checkpoints have in their place
inline std::string tensor_name(Family const& family, Config const& config, int layer, std::string_view role) {
  std::string_view expert;
  auto const dot = role.find('.');
  if (dot != std::string_view::npos) {
    expert = role.substr(dot + 1);
    if (expert.empty() || expert.find_first_not_of("0123456789") != std::string_view::npos) return "";
    role = role.substr(0, dot);
  }
  auto const& names = family.names;
  auto const pattern = detail::role_pattern(names, role);
  bool const wants_expert = pattern.find("{e}") != std::string::npos;
  if (pattern.empty() || wants_expert == expert.empty()) return "";

  auto prefix = names.layer;
  bool const text_only = config.string_or("model_type", "") == std::string(family.model_type) + "_text";
  if (text_only) prefix = "model.layers.{l}.";
  if (!names.decoder_layer.empty()) {
    int const first = family.stack(family.settings_of(config)).first;
    if (layer >= first) prefix = names.decoder_layer, layer -= first;
  }
  auto const name = detail::replaced(std::string(prefix) + pattern, "{l}", std::to_string(layer));
  return detail::replaced(name, "{e}", expert);
}

} // namespace kokomo::inline v0::io

#endif
