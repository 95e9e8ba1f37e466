// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_PARAMETERS_HPP
#define KOKOMO_IO_PARAMETERS_HPP

#include <kokomo/error.hpp>
#include <kokomo/io/quantized.hpp>
#include <kokomo/io/tensor.hpp>
#include <kokomo/types.hpp>

#include <array>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace kokomo::inline v0::detail {

/// Roles whose tensors are the whole parameter of a name, in order of preference.
struct WholeRole {
  std::string_view parameter, role;
};
inline constexpr WholeRole whole_roles[] = {{"router.weight", "router_weight"},
                                            {"router.bias", "router_bias"},
                                            {"router.scale", "router_scale"},
                                            {"router.down", "router_down_weight"},
                                            {"router.down_bias", "router_down_bias"},
                                            {"router.states_scale", "router_states_scale"},
                                            {"router.norm", "router_norm_weight"},
                                            {"router.fc1", "router_fc1_weight"},
                                            {"router.fc1_bias", "router_fc1_bias"},
                                            {"router.fc2", "router_fc2_weight"},
                                            {"router.fc2_bias", "router_fc2_bias"},
                                            {"router.classifier", "router_classifier"},
                                            {"gate.expert_scale", "per_expert_scale"},
                                            {"gate.global_scale", "global_scale"},
                                            {"experts.gate_up", "gate_up"},
                                            {"experts.gate", "gate_proj"},
                                            {"experts.up", "up_proj"},
                                            {"experts.up", "expert_down"}, // one neuron: down to a number,
                                            {"experts.down", "down"},
                                            {"experts.down", "expert_up"}, // and up again
                                            {"experts.gate_up_bias", "gate_up_bias"},
                                            {"experts.gate_bias", "gate_bias"},
                                            {"experts.up_bias", "up_bias"},
                                            {"experts.down_bias", "down_bias"},
                                            {"experts.norm", "post_expert_norm_weight"},
                                            {"shared.gate_up", "shared_gate_up"},
                                            {"shared.up", "shared_up_proj"},
                                            {"shared.down", "shared_down_proj"},
                                            {"shared.shared_gate", "shared_expert_gate"},
                                            {"space.in", "latent_in"},
                                            {"space.out", "latent_out"},
                                            {"space.norm", "expert_norm_weight"},
                                            {"space.norm", "latent_norm_weight"},
                                            {"combine.bias", "output_bias"},
                                            {"combine.norm", "post_norm_weight"},
                                            // quantised experts: MXFP4, then float8
                                            {"experts.gate_up_codes", "gate_up_blocks"},
                                            {"experts.gate_up_scales", "gate_up_scales"},
                                            {"experts.down_codes", "down_blocks"},
                                            {"experts.down_scales", "down_scales"},
                                            {"experts.gate_codes", "gate_proj"},
                                            {"experts.gate_scales", "gate_proj_scale_inv"},
                                            {"experts.up_codes", "up_proj"},
                                            {"experts.up_scales", "up_proj_scale_inv"},
                                            {"experts.down_codes", "down"},
                                            {"experts.down_scales", "down_scale_inv"},
                                            {"shared.down_codes", "shared_down_proj"},
                                            {"shared.down_scales", "shared_down_proj_scale_inv"},
                                            {"balancer.bias", "selection_bias"},
                                            {"selector.table", "hash_table"}};

/// Parameters [experts, 2I, columns] that files may hold as two tensors, or as two an expert.
struct FusedRole {
  std::string_view parameter, gate, up;
};
inline constexpr FusedRole fused_roles[] = {
    {"experts.gate_up", "gate_proj", "up_proj"},
    {"experts.gate_up_bias", "gate_bias", "up_bias"},
    {"shared.gate_up", "shared_gate_proj", "shared_up_proj"},
    {"experts.gate_up_codes", "gate_proj", "up_proj"},
    {"experts.gate_up_scales", "gate_proj_scale_inv", "up_proj_scale_inv"},
    {"shared.gate_up_codes", "shared_gate_proj", "shared_up_proj"},
    {"shared.gate_up_scales", "shared_gate_proj_scale_inv", "shared_up_proj_scale_inv"}};

/// The bytes of quantised weights or of their scales: MXFP4 blocks as rows, and float8 by its bits.
/// \throws kokomo::Error 412, 413 for what is none of them
inline io::TensorInfo packed_bytes(io::TensorInfo const& tensor, std::string_view role) {
  role = role.substr(0, role.find('.'));
  if (role.ends_with("_blocks")) return rows_of_blocks(tensor);
  io::TensorInfo bytes = tensor;
  if (role.ends_with("_scales")) {
    if (tensor.dtype != io::DType::F8_E8M0) expect_dtype(tensor, io::DType::U8);
  } else {
    expect_dtype(tensor, io::DType::F8_E4M3);
  }
  bytes.dtype = io::DType::U8;
  return bytes;
}

} // namespace kokomo::inline v0::detail

namespace kokomo::inline v0::io {

/// Where one file tensor stands in a parameter of a layer: `chunks` contiguous runs of `length` elements, `stride`
/// apart, from `offset` on.
struct Place {
  std::string
      role; ///< what the tensor is: "router_weight", "gate_up", "gate_proj.3", ... (docs/guide/load_a_checkpoint.md)
  offset_t offset = 0;
  offset_t chunks = 1;
  offset_t length = 0;
  offset_t stride = 0;
  offset_t columns = 1; ///< last extent

  offset_t elements() const { return chunks * length; }
};

/// Gives the tensor of a role, or null.
using TensorOfRole = std::function<TensorInfo const*(std::string_view role)>;

/// How the file's tensors make up one parameter: whole, one a part, one an expert, or one an expert and part.
/// \param[in] extents of the parameter, outermost first, unused ones 1
/// \param[in] has whether the file has a tensor of a role
/// \returns nothing if it has none that fit
inline std::vector<Place> places_of(std::string_view parameter, std::array<offset_t, 3> const& extents,
                                    std::function<bool(std::string_view)> const& has) {
  offset_t const inner = extents[1] * extents[2], total = extents[0] * inner;
  bool const quantized = parameter.ends_with("_codes") || parameter.ends_with("_scales");
  offset_t const columns = quantized || extents[2] > 1 ? extents[2] : extents[1] > 1 ? extents[1] : extents[0];
  for (auto const& whole : kokomo::detail::whole_roles) {
    if (whole.parameter != parameter) continue;
    std::string const role(whole.role);
    if (has(role)) return {{role, 0, 1, total, total, columns}};
    if (!has(role + ".0")) continue;
    std::vector<Place> places;
    for (offset_t e = 0; e < extents[0]; ++e)
      places.push_back({role + "." + std::to_string(e), e * inner, 1, inner, inner, columns});
    return places;
  }
  for (auto const& fused : kokomo::detail::fused_roles) {
    if (fused.parameter != parameter) continue;
    std::string const gate(fused.gate), up(fused.up);
    offset_t const half = inner / 2;
    if (has(gate)) return {{gate, 0, extents[0], half, inner, columns}, {up, half, extents[0], half, inner, columns}};
    if (!has(gate + ".0")) continue;
    std::vector<Place> places;
    for (offset_t e = 0; e < extents[0]; ++e) {
      std::string const of_expert = "." + std::to_string(e);
      places.push_back({gate + of_expert, e * inner, 1, half, half, columns});
      places.push_back({up + of_expert, e * inner + half, 1, half, half, columns});
    }
    return places;
  }
  return {};
}

/// The part of a tensor that fills a place. Its last dimension and its number of elements must be those of the place;
/// leading dimensions may be split differently (published files store [1, E] for [E], [E I, H] for [E, I, H]), and a stacked
/// tensor may hold rows for zero-computation experts behind those of the layer.
/// \throws kokomo::Error 413 naming tensor, file and shapes
inline TensorInfo part_for(TensorInfo const& tensor, Place const& place) {
  offset_t const columns = tensor.shape.empty() ? 1 : tensor.shape.back();
  TensorInfo fitting = tensor;
  if (tensor.shape.size() >= 2 && tensor.elements() > place.elements() &&
      place.elements() % (tensor.elements() / tensor.shape[0]) == 0)
    fitting = rows(tensor, 0, place.elements() / (tensor.elements() / tensor.shape[0]));
  kokomo::detail::require(columns == place.columns && fitting.elements() == place.elements(), 413,
                          kokomo::detail::label(tensor), " has shape ", kokomo::detail::shape_text(tensor.shape),
                          ", expected ", place.elements() / place.columns, " rows of ", place.columns);
  return fitting;
}

/// Reads a tensor into its place; or, where `parameter` is null, only checks that it could.
/// \throws kokomo::Error 413 as part_for; 412, 414 as read
template <class T> void read_place(TensorInfo const& tensor, Place const& place, T* parameter) {
  TensorInfo const fitting = part_for(tensor, place);
  if (parameter == nullptr) return expect_readable<T>(fitting);
  if (place.chunks == 1) return read(fitting, std::span<T>(parameter + place.offset, std::size_t(place.length)));
  std::vector<T> const values = read<T>(fitting);
  for (offset_t chunk = 0; chunk < place.chunks; ++chunk)
    std::copy_n(values.begin() + chunk * place.length, place.length, parameter + place.offset + chunk * place.stride);
}

} // namespace kokomo::inline v0::io

namespace kokomo::inline v0::detail {

/// A View that a file's tensors fill, its type forgotten: what reads them is compiled once and not for every layer.
struct LoadTarget {
  std::string name;
  std::array<offset_t, 3> extents;
  void* data;
  std::size_t bytes;
  void (*read)(io::TensorInfo const&, io::Place const&, void* data);

  template <class V>
  LoadTarget(std::string const& view_name, V const& view)
      : name(view_name), extents{offset_t(view.extent(0)), offset_t(view.extent(1)), offset_t(view.extent(2))},
        data(view.data()), bytes(view.size() * sizeof(typename V::value_type)), read(&read_as<typename V::value_type>) {
  }

private:
  template <class T> static void read_as(io::TensorInfo const& tensor, io::Place const& place, void* data) {
    if constexpr (std::is_same_v<T, std::uint8_t>)
      io::read_place(packed_bytes(tensor, place.role), place, static_cast<T*>(data));
    else
      io::read_place(tensor, place, static_cast<T*>(data));
  }
};

/// Reads into `host`, memory laid out as the target's; or, where that is null, only checks that it could.
inline void read_target(LoadTarget const& target, io::TensorOfRole const& tensor_of, void* host) {
  auto const has = [&](std::string_view role) { return tensor_of(role) != nullptr; };
  auto const places = io::places_of(target.name, target.extents, has);
  require(!places.empty(), 411, "no tensor for parameter ", target.name,
          ": the file has none of the roles that make it up");
  for (io::Place const& place : places) {
    io::TensorInfo const* const tensor = tensor_of(place.role);
    require(tensor != nullptr, 411, "no tensor for role ", place.role, " of parameter ", target.name);
    target.read(*tensor, place, host);
  }
}

/// On the host straight into the target, for a device by way of the host.
template <class Exec> void load_target(Exec const& exec, LoadTarget const& target, io::TensorOfRole const& tensor_of) {
  using Space = typename Exec::memory_space;
  if constexpr (Kokkos::SpaceAccessibility<Kokkos::HostSpace, Space>::accessible) {
    read_target(target, tensor_of, target.data);
  } else {
    using Unmanaged = Kokkos::MemoryUnmanaged;
    Kokkos::View<std::byte*, Kokkos::HostSpace> const host(
        Kokkos::view_alloc(Kokkos::WithoutInitializing, "kokomo::io::load"), target.bytes);
    read_target(target, tensor_of, host.data());
    Kokkos::deep_copy(
        exec, Kokkos::View<std::byte*, Space, Unmanaged>(static_cast<std::byte*>(target.data), target.bytes), host);
    exec.fence("kokomo::io::load: a parameter");
  }
}

} // namespace kokomo::inline v0::detail

namespace kokomo::inline v0::io {

/// Fills every parameter of a layer, and state that files hold (selection biases, hash tables), from a file's tensors.
/// Blocks until the copies are done.
/// \param[in] tensor_of the file's tensor of a role, or null
/// \throws kokomo::Error 411 naming a parameter that has no tensor; 412 to 414 as read_place. Nothing is changed then
template <class Layer>
void load(typename Layer::Exec const& exec, typename Layer::Parameters const& parameters,
          typename Layer::State const& state, TensorOfRole const& tensor_of) {
  std::vector<kokomo::detail::LoadTarget> targets;
  auto const add = [&](std::string const& name, auto const& view) { targets.emplace_back(name, view); };
  parameters.for_each(add);
  state.for_each(add);
  std::erase_if(targets, [](auto const& target) { return target.name == "balancer.counts"; });
  for (auto const& target : targets) kokomo::detail::read_target(target, tensor_of, nullptr);
  exec.fence("kokomo::io::load: the targets' memory"); // which may just be being set to zero
  for (auto const& target : targets) kokomo::detail::load_target(exec, target, tensor_of);
}

} // namespace kokomo::inline v0::io

#endif
