// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_REFERENCE_CHECK_REFERENCE_HPP
#define KOKOMO_EXAMPLES_REFERENCE_CHECK_REFERENCE_HPP

#include <kokomo/io/safetensors.hpp>
#include <kokomo/models/description.hpp>

#include <nlohmann/json.hpp>

#include <map>
#include <string>
#include <vector>

/// A file of reference vectors: the tensors of one MoE block, what it was given and what came out, and metadata that
/// says how the block is defined.
class Reference {
public:
  explicit Reference(std::string const& path);

  std::string const& family() const { return m_family; }
  bool is_bfloat16() const { return m_bfloat16; }
  nlohmann::json const& config() const { return m_config; }
  kokomo::offset_t tokens() const { return m_tokens; }
  kokomo::models::Description describe() const;

  kokomo::io::TensorInfo const* find(std::string const& name) const { return m_file.find(name); }
  kokomo::io::TensorInfo const& at(std::string const& name) const { return m_file.at(name); }
  /// The tensor of a role, with the prefix of one of several blocks ("text_"), or null.
  kokomo::io::TensorInfo const* of_role(std::string_view role, std::string const& prefix = "") const;
  /// The name of that tensor, or nothing.
  std::string name_of_role(std::string_view role, std::string const& prefix = "") const;

private:
  kokomo::io::SafetensorsFile m_file;
  std::string m_family;
  nlohmann::json m_config;
  std::map<std::string, std::string> m_roles;
  kokomo::offset_t m_tokens = 0;
  bool m_bfloat16 = false;
};

/// Compares tensors and remembers the worst: the one whose error is largest beside its bound.
class Comparison {
public:
  explicit Comparison(bool bfloat16)
      : m_output_bound(bfloat16 ? 1e-2 : 1e-5), m_gradient_bound(bfloat16 ? 2e-2 : 1e-4) {}

  /// ||got - expected|| / ||expected||
  void output(std::string const& name, std::vector<double> const& got, std::vector<double> const& expected);
  /// The same for a gradient. One that vanishes beside the others holds rounding noise in the reference: it is compared
  /// on the scale of the largest gradient of the file, which `finish` knows.
  void gradient(std::string const& name, std::vector<double> got, std::vector<double> expected);
  void fail(std::string const& reason);
  void finish();

  bool passed() const { return m_reason.empty(); }
  std::string summary() const;

private:
  struct Gradient {
    std::string name;
    double error, norm;
  };
  void record(std::string const& name, double relative, double bound);

  double m_output_bound, m_gradient_bound;
  std::vector<Gradient> m_gradients;
  double m_worst = 0, m_worst_share = -1;
  std::string m_worst_name, m_reason;
  int m_compared = 0;
};

/// Runs a composition on the file, forward and backward, in the file's dtype.
void check_family(std::string_view composition, Reference const& reference, Comparison& comparison);

/// The auxiliary losses of a file that has any.
void check_losses(Reference const& reference, Comparison& comparison);
/// A file with nothing but the load balancing loss over several layers.
void check_pooled_loss(Reference const& reference, Comparison& comparison);
/// Text and vision experts, each with a router of its own, beside shared experts: two layers.
void check_two_modalities(Reference const& reference, Comparison& comparison);
/// Experts that choose tokens.
void check_expert_choice(Reference const& reference, Comparison& comparison);
/// A transport plan between tokens and experts.
void check_sinkhorn(Reference const& reference, Comparison& comparison);
/// PEER's retrieval and experts; the operator MoE of ONNX Runtime, forward only; torch's grouped product.
void check_peer(Reference const& reference, Comparison& comparison);
void check_operator(Reference const& reference, Comparison& comparison);
void check_grouped_product(Reference const& reference, Comparison& comparison);
/// One expert a token with equal loads, and k with capacities.
void check_balanced_assignment(Reference const& reference, Comparison& comparison);
void check_capacity_lp(Reference const& reference, Comparison& comparison);
/// Choices with capacities, and their weights.
void check_deepspeed_gating(Reference const& reference, Comparison& comparison);
/// Slots that read mixtures of tokens.
void check_soft_moe(Reference const& reference, Comparison& comparison);

#endif
