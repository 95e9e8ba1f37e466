// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_SAFETENSORS_HPP
#define KOKOMO_IO_SAFETENSORS_HPP

#include <kokomo/error.hpp>
#include <kokomo/io/file_bytes.hpp>
#include <kokomo/io/safetensors_header.hpp>
#include <kokomo/io/safetensors_writer.hpp>
#include <kokomo/io/tensor.hpp>

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kokomo::inline v0::io {

/// A safetensors file, mapped read only. Everything that its header states is checked when it opens: afterwards every
/// TensorInfo is sound, and no tensor's bytes have been touched.
///
/// The format, and what it refuses, is that of https://github.com/huggingface/safetensors: 8 bytes of header length,
/// a JSON header, then the tensors' bytes, which cover the rest of the file without holes and overlaps. Beyond the
/// reference, names and keys that stand twice and unknown keys in a tensor's entry are refused.
///
/// \note The file must keep its length while it is mapped: the operating system ends a process that reads beyond it.
class SafetensorsFile {
public:
  /// \throws Error 401 to 410, naming the file, the tensor and what was expected
  explicit SafetensorsFile(std::filesystem::path const& path)
      : SafetensorsFile(std::make_shared<detail::FileBytes const>(path)) {}

  /// The same from memory, which must outlive this object and all copies of its tensors. `name` stands in errors.
  SafetensorsFile(std::span<std::byte const> bytes, std::string name)
      : SafetensorsFile(std::make_shared<detail::FileBytes const>(bytes, std::move(name))) {}

  /// Name of the file, as it was opened.
  std::string const& name() const { return m_file->name(); }

  /// All tensors, in the order of their names.
  std::vector<TensorInfo> const& tensors() const { return m_header.tensors; }

  /// The string to string map that the header may carry.
  std::map<std::string, std::string> const& metadata() const { return m_header.metadata; }

  /// The tensor of that name, or null.
  TensorInfo const* find(std::string_view name) const { return detail::find_tensor(tensors(), name); }

  /// \throws Error 411 if there is no such tensor
  TensorInfo const& at(std::string_view name) const { return detail::tensor_at(tensors(), name, m_file->name()); }

private:
  explicit SafetensorsFile(std::shared_ptr<detail::FileBytes const> file)
      : m_file(std::move(file)), m_header(detail::read_safetensors_header(m_file)) {}

  std::shared_ptr<detail::FileBytes const> m_file;
  detail::SafetensorsHeader m_header;
};

} // namespace kokomo::inline v0::io

#endif
