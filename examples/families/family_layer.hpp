// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_FAMILIES_FAMILY_LAYER_HPP
#define KOKOMO_EXAMPLES_FAMILIES_FAMILY_LAYER_HPP

#include <kokomo/io/parameters.hpp>
#include <kokomo/models/description.hpp>

#include <array>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// A choice at run time among compositions that are types. A layer's composition is fixed while compiling; which one a
// file asks for is known when the program runs. This library compiles the composition of every published family once,
// for float and bfloat16, and hides each behind one interface that takes and gives numbers on the host.
namespace families {

using Exec = Kokkos::DefaultExecutionSpace;

/// What a forward pass reads, on the host. A composition takes what its policies read and ignores the rest; but for x,
/// empty stands for "not given".
struct Inputs {
  std::vector<float> x;                    ///< [tokens, hidden]
  std::vector<kokomo::offset_t> token_ids; ///< [tokens]: DeepSeek V4's hash layers
  std::vector<kokomo::index_t> experts;    ///< [tokens, k] chosen already: PhiMoeReplay
  std::vector<float> gate_factors;         ///< [tokens, 2] what SparseMixer drew in training
  std::vector<float> previous_states;      ///< [tokens, state size] of the router of the layer before: Zaya
  std::vector<kokomo::index_t> token_mask; ///< [tokens], 0: not routed
  kokomo::Mode mode = kokomo::Mode::inference;
};

/// kokomo::Assignment on the host.
struct Assignment {
  std::vector<kokomo::offset_t> token_offsets;  ///< [tokens + 1]
  std::vector<kokomo::index_t> expert, row;     ///< [entries], none: nobody, not executed
  std::vector<float> weight;                    ///< [entries]
  std::vector<kokomo::offset_t> expert_offsets; ///< [experts + 1]
};

/// The gradient of one parameter.
struct Gradient {
  std::string parameter; ///< "router.weight", "experts.down", ...
  std::array<kokomo::offset_t, 3> extents;
  std::vector<float> values;
};

/// A layer with its parameters, state and memory for one batch. Numbers are stored in float or bfloat16 and cross this
/// interface as float; every call waits until its work is done.
class FamilyLayer {
public:
  FamilyLayer(FamilyLayer const&) = delete;
  FamilyLayer& operator=(FamilyLayer const&) = delete;
  virtual ~FamilyLayer() = default;

  /// Reads parameters and state from a file's tensors straight to where they are used.
  /// \throws kokomo::Error 411 .. 413 for tensors that are missing or do not fit
  virtual void load(kokomo::io::TensorOfRole const& tensor_of) = 0;

  void forward(Inputs const& inputs);
  /// The same once more on what the device holds already: seconds, without any copy.
  double forward_again();
  /// For the last forward pass. The first call allocates gradients.
  void backward(std::vector<float> const& dy);

  // of the last forward pass
  std::vector<float> y() const;             ///< [tokens, hidden]
  std::vector<float> logits() const;        ///< [tokens, columns]
  std::vector<float> shared_weight() const; ///< [tokens, shared] where the gate weighs shared experts, else empty
  std::vector<float> router_states() const; ///< [tokens, state size] of a router that keeps any, else empty
  Assignment assignment() const;
  kokomo::Status status() const;
  double flop() const; ///< of the products of its experts, shared ones included

  // of the last backward pass
  std::vector<float> dx() const;                ///< [tokens, hidden]
  std::vector<float> d_previous_states() const; ///< as previous_states
  std::vector<Gradient> gradients() const;

protected:
  /// What a composition's type says of its experts.
  struct Traits {
    bool gated, has_shared, shared_gated;
  };
  using Bytes = Kokkos::View<std::byte*, Exec::memory_space>;
  /// Inputs and outputs on the device, x, y and their gradients in the storage type. Empty: not given.
  struct Device {
    Bytes x, y, dy, dx, token_ids, experts, gate_factors, previous_states, d_previous_states, token_mask;
  };
  /// Device memory that the last forward pass has written.
  struct Saved {
    std::span<float const> logits, weight, shared_weight, router_states;
    std::span<kokomo::offset_t const> token_offsets, expert_offsets;
    std::span<kokomo::index_t const> expert, row;
    kokomo::Status const* status;
    kokomo::index_t weighted_experts; // the first ones; those behind have no weights
  };
  struct Parameter {
    std::string name;
    std::array<kokomo::offset_t, 3> extents;
    void const* values; // on the device
    bool bfloat16;      // else float: some weights are kept in what is computed in
  };

  FamilyLayer(kokomo::models::Description const& description, kokomo::offset_t tokens, bool bfloat16, Traits traits)
      : m_description(description), m_tokens(tokens), m_bfloat16(bfloat16), m_traits(traits) {}

  virtual void run_forward() = 0;
  virtual void run_backward() = 0;
  virtual Saved saved() const = 0;
  virtual std::vector<Parameter> parameter_gradients() const = 0;

  Exec m_exec;
  kokomo::models::Description m_description;
  kokomo::offset_t m_tokens;
  kokomo::Mode m_mode = kokomo::Mode::inference;
  Device m_device;

private:
  Bytes stored(std::vector<float> const& values) const;
  std::vector<float> read_back(Bytes const& stored) const;

  bool m_bfloat16;
  Traits m_traits;
};

/// Makes a layer of one composition for batches of `tokens` tokens.
/// \throws kokomo::Error 1xx for a description that makes no sense
using MakeLayer = std::unique_ptr<FamilyLayer>(kokomo::models::Description const& description, kokomo::offset_t tokens,
                                               bool bfloat16);

/// The composition that kokomo::models calls so, or ExpertChoice and ExpertChoiceSigmoid.
/// \throws std::runtime_error for a name that is none
MakeLayer& composition(std::string_view name);

/// Copies between host and device, and waits. All numbers go this way: bytes need one Kokkos::deep_copy, where Views
/// would need one for each type.
void copy_to_device(void* device, void const* host, std::size_t bytes);
void copy_to_host(void* host, void const* device, std::size_t bytes);

} // namespace families

#endif
