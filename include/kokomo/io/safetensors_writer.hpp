// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_SAFETENSORS_WRITER_HPP
#define KOKOMO_IO_SAFETENSORS_WRITER_HPP

#include <kokomo/error.hpp>
#include <kokomo/io/tensor.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace kokomo::inline v0::io {

/// Describes a row-major View that the host can access, for `write_safetensors`. It must outlive the result.
///
/// \throws Error 415 if the View is not row-major and contiguous
template <class View> TensorInfo as_tensor(std::string name, View const& view) {
  static_assert(bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename View::memory_space>::accessible),
                "kokomo::io::as_tensor: the host must be able to access the View; copy it to a mirror first");
  TensorInfo tensor;
  tensor.name = std::move(name);
  tensor.dtype = dtype_of_v<typename View::non_const_value_type>;
  for (std::size_t d = 0; d < View::rank; ++d) tensor.shape.push_back(std::int64_t(view.extent(d)));
  detail::require(detail::is_row_major(view), 415, detail::label(tensor), " is not row-major and contiguous");
  tensor.bytes = std::as_bytes(std::span(view.data(), view.size()));
  return tensor;
}

/// The same for elements that stand one after the other.
template <class T>
TensorInfo as_tensor(std::string name, std::span<T const> elements, std::vector<std::int64_t> shape) {
  return {std::move(name), dtype_of_v<T>, std::move(shape), std::as_bytes(elements)};
}

} // namespace kokomo::inline v0::io

namespace kokomo::inline v0::detail {

/// Wide elements first, so that each tensor is aligned to its elements; the order of the reference implementation.
inline std::vector<io::TensorInfo const*> in_file_order(std::span<io::TensorInfo const> tensors) {
  std::vector<io::TensorInfo const*> order;
  for (auto const& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](auto const* a, auto const* b) {
    return std::tuple(io::size_of(b->dtype), std::string_view(a->name)) <
           std::tuple(io::size_of(a->dtype), std::string_view(b->name));
  });
  return order;
}

/// The header's text, padded with spaces so that the data begin at a multiple of 8.
inline std::string safetensors_header_text(std::vector<io::TensorInfo const*> const& order, std::string const& file,
                                           std::map<std::string, std::string> const& metadata) {
  auto header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::size_t begin = 0;
  for (auto const* tensor : order) {
    auto const bytes = byte_size(tensor->shape, tensor->dtype);
    require(bytes.has_value() && std::cmp_equal(*bytes, tensor->bytes.size()), 415, tensor_label(tensor->name, file),
            " has ", tensor->bytes.size(), " bytes, which is not shape ", shape_text(tensor->shape), " of ",
            io::name_of(tensor->dtype));
    require(tensor->name != "__metadata__" && !header.contains(tensor->name), 415, tensor_label(tensor->name, file),
            ": the name stands twice or is reserved");
    std::size_t const end = begin + tensor->bytes.size();
    header[tensor->name] = {
        {"dtype", io::name_of(tensor->dtype)}, {"shape", tensor->shape}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (nlohmann::json::exception const& problem) {
    fail(415, file, ": a name is not UTF-8: ", printable(problem.what()));
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

} // namespace kokomo::inline v0::detail

namespace kokomo::inline v0::io {

/// Writes a safetensors file: wide elements first, then by name, each tensor aligned to its elements. The file appears
/// under its name when it is whole: it is written as `path` + ".part" and renamed.
///
/// \throws Error 415 if a tensor's name or byte count is wrong (nothing is written), 416 if writing fails
inline void write_safetensors(std::filesystem::path const& path, std::span<TensorInfo const> tensors,
                              std::map<std::string, std::string> const& metadata = {}) {
  auto const order = detail::in_file_order(tensors);
  std::string const header = detail::safetensors_header_text(order, path.string(), metadata);
  std::uint64_t const length = header.size();

  auto const unfinished = std::filesystem::path(path) += ".part";
  std::ofstream out(unfinished, std::ios::binary | std::ios::trunc);
  auto const write = [&out](void const* data, std::size_t bytes) {
    out.write(static_cast<char const*>(data), std::streamsize(bytes));
  };
  write(&length, sizeof length);
  write(header.data(), header.size());
  for (auto const* tensor : order) write(tensor->bytes.data(), tensor->bytes.size());
  out.close();

  std::error_code problem;
  if (out) std::filesystem::rename(unfinished, path, problem);
  if (out && !problem) return;
  std::error_code ignored;
  std::filesystem::remove(unfinished, ignored);
  detail::fail(416, path.string(), " cannot be written: ", problem ? problem.message() : "no permission or no space");
}

} // namespace kokomo::inline v0::io

#endif
