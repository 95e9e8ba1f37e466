// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_CHECKPOINT_HPP
#define KOKOMO_IO_CHECKPOINT_HPP

#include <kokomo/error.hpp>
#include <kokomo/io/config.hpp>
#include <kokomo/io/json.hpp>
#include <kokomo/io/safetensors.hpp>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kokomo::inline v0::detail {

/// weight_map of a model.safetensors.index.json: which shard holds a tensor.
/// \throws Error 403, 423 if the index is malformed, 424 if a shard lies outside of the folder
inline std::map<std::string, std::string> read_weight_map(FileBytes const& index) {
  auto const document = parse_json(index);
  auto const& name = index.name();
  require(document.is_object() && document.contains("weight_map") && document["weight_map"].is_object(), 423, name,
          " has no object weight_map");
  std::map<std::string, std::string> weight_map;
  for (auto const& [tensor, value] : document["weight_map"].items()) {
    require(value.is_string(), 423, name, ": weight_map gives ", value.type_name(), " for tensor ", printable(tensor),
            ", expected the name of a file");
    auto const& shard = value.get_ref<std::string const&>();
    std::filesystem::path const path(shard);
    bool const stays_inside = !shard.empty() && path.is_relative() && shard.find('\0') == std::string::npos &&
                              std::find(path.begin(), path.end(), "..") == path.end();
    require(stays_inside, 424, name, ": weight_map gives '", printable(shard), "' for tensor ", printable(tensor),
            ", expected a file inside the folder");
    weight_map.emplace(tensor, shard);
  }
  return weight_map;
}

} // namespace kokomo::inline v0::detail

namespace kokomo::inline v0::io {

/// A model's folder as published: config.json, and the weights as model.safetensors or as the shards that
/// model.safetensors.index.json names (where both are, the one file, as transformers does). Every shard is mapped and
/// its header checked when the folder opens; tensors' bytes are read when somebody asks for them. A tensor that a shard
/// holds and the index does not name is left out.
///
/// Symbolic links are followed, as the download caches need: a folder is trusted to name its own files.
class Checkpoint {
public:
  /// \throws Error 421 to 427, and those of SafetensorsFile for each shard
  explicit Checkpoint(std::filesystem::path folder) : m_folder(std::move(folder)) {
    namespace fs = std::filesystem;
    std::error_code ignored; // what cannot be looked at counts as missing
    detail::require(fs::is_directory(m_folder, ignored), 421, m_folder.string(), " is not a folder");
    auto const single = m_folder / "model.safetensors", index = m_folder / "model.safetensors.index.json";
    if (fs::exists(single, ignored))
      m_tensors = SafetensorsFile(single).tensors();
    else if (fs::exists(index, ignored))
      m_tensors = read_shards(detail::FileBytes(index));
    else
      detail::fail(422, m_folder.string(), " has neither model.safetensors nor model.safetensors.index.json");
  }

  std::filesystem::path const& folder() const { return m_folder; }

  /// The tensors of all shards, in the order of their names.
  std::vector<TensorInfo> const& tensors() const { return m_tensors; }

  /// The tensor of that name, or null.
  TensorInfo const* find(std::string_view name) const { return detail::find_tensor(m_tensors, name); }

  /// \throws Error 411 if there is no such tensor
  TensorInfo const& at(std::string_view name) const { return detail::tensor_at(m_tensors, name, m_folder.string()); }

  /// The folder's config.json.
  /// \throws Error 401 if it cannot be read, 403 if it is not JSON, 432 if it is not an object
  Config config() const { return Config(m_folder / "config.json"); }

private:
  std::vector<TensorInfo> read_shards(detail::FileBytes const& index) const {
    auto const weight_map = detail::read_weight_map(index);
    std::map<std::string, SafetensorsFile> shards;
    for (auto const& [tensor, shard] : weight_map) {
      if (shards.contains(shard)) continue;
      auto const path = m_folder / shard;
      std::error_code ignored;
      detail::require(std::filesystem::exists(path, ignored), 425, path.string(), " is missing: ", index.name(),
                      " expects tensor ", detail::printable(tensor), " in it");
      shards.emplace(shard, path);
    }
    for (auto const& [shard, file] : shards)
      for (auto const& tensor : file.tensors()) {
        auto const mapped = weight_map.find(tensor.name);
        detail::require(mapped == weight_map.end() || mapped->second == shard ||
                            shards.at(mapped->second).find(tensor.name) == nullptr,
                        427, detail::label(tensor), " stands in ",
                        mapped == weight_map.end() ? "" : detail::printable(mapped->second), " too");
      }

    std::vector<TensorInfo> tensors; // the map is sorted, and so are they
    for (auto const& [name, shard] : weight_map) {
      auto const* const tensor = shards.at(shard).find(name);
      detail::require(tensor != nullptr, 426, "tensor ", detail::printable(name), " is not in ",
                      (m_folder / shard).string(), ", where ", index.name(), " expects it");
      tensors.push_back(*tensor);
    }
    return tensors;
  }

  std::filesystem::path m_folder;
  std::vector<TensorInfo> m_tensors; ///< each keeps its file mapped
};

} // namespace kokomo::inline v0::io

#endif
