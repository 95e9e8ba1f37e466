// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_TENSOR_HPP
#define KOKOMO_IO_TENSOR_HPP

#include <kokomo/error.hpp>
#include <kokomo/io/dtype.hpp>
#include <kokomo/io/file_bytes.hpp>

#include <Kokkos_Core.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace kokomo::inline v0::io {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little-endian, and so must the host be");

/// One tensor of a file: where its bytes lie and what they mean. Row-major, of any alignment.
struct TensorInfo {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;  ///< empty for a scalar
  std::span<std::byte const> bytes; ///< elements() * size_of(dtype) of them
  /// Name of the file, for errors. It keeps the file mapped: a copy of a TensorInfo may outlive the reader that gave
  /// it. Null for tensors that stand in memory.
  std::shared_ptr<std::string const> file = nullptr;

  std::int64_t elements() const { return std::int64_t(bytes.size() / size_of(dtype)); }
};

} // namespace kokomo::inline v0::io

namespace kokomo::inline v0::detail {

/// "tensor X in F": how every error about a tensor begins.
inline std::string tensor_label(std::string_view name, std::string_view file) {
  return "tensor " + printable(name) + " in " + std::string(file);
}
inline std::string label(io::TensorInfo const& tensor) {
  return tensor_label(tensor.name, tensor.file ? std::string_view(*tensor.file) : "memory");
}

inline std::string shape_text(std::span<std::int64_t const> shape) {
  std::string text = "[";
  for (std::size_t d = 0; d < shape.size() && text.size() < 120; ++d)
    text += (d == 0 ? "" : ", ") + std::to_string(shape[d]);
  return text + (text.size() < 120 ? "]" : ", ...]");
}

/// Bytes of a shape; none if a dimension is negative or the product of the dimensions other than zero, in bytes,
/// passes 2^63: then not even the strides of an empty tensor could be trusted.
inline std::optional<std::int64_t> byte_size(std::span<std::int64_t const> shape, io::DType dtype) {
  auto product = std::int64_t(io::size_of(dtype));
  bool empty = false;
  for (std::int64_t const extent : shape) {
    if (extent < 0) return std::nullopt;
    empty = empty || extent == 0;
    if (extent == 0) continue;
    if (product > std::numeric_limits<std::int64_t>::max() / extent) return std::nullopt;
    product *= extent;
  }
  return empty ? 0 : product;
}

/// Calls store(i, value) for each element i, which a file holds as From. Nothing is read through a misaligned pointer.
template <class To, class From, class Store> void convert_elements(io::TensorInfo const& tensor, Store const& store) {
  for (std::int64_t i = 0; i < tensor.elements(); ++i) {
    From value;
    std::memcpy(&value, tensor.bytes.data() + i * std::int64_t(sizeof(From)), sizeof(From));
    if constexpr (std::is_integral_v<To>) {
      require(std::in_range<To>(value), 414, label(tensor), ": element ", i, " is ", +value, ", expected ",
              +std::numeric_limits<To>::lowest(), " to ", +std::numeric_limits<To>::max());
      require(tensor.dtype != io::DType::BOOL || std::cmp_less_equal(value, 1), 414, label(tensor), ": element ", i,
              " is ", +value, ", expected 0 or 1 in a BOOL tensor");
    }
    store(i, static_cast<To>(value));
  }
}

/// Calls store(i, value) for each element i, converted to To.
template <class To, class Store> void decode(io::TensorInfo const& tensor, Store const& store) {
  using io::DType;
  if constexpr (std::is_integral_v<To>) {
    switch (tensor.dtype) {
    case DType::BOOL:
    case DType::U8:
      return convert_elements<To, std::uint8_t>(tensor, store);
    case DType::I8:
      return convert_elements<To, std::int8_t>(tensor, store);
    case DType::U16:
      return convert_elements<To, std::uint16_t>(tensor, store);
    case DType::I16:
      return convert_elements<To, std::int16_t>(tensor, store);
    case DType::U32:
      return convert_elements<To, std::uint32_t>(tensor, store);
    case DType::I32:
      return convert_elements<To, std::int32_t>(tensor, store);
    case DType::U64:
      return convert_elements<To, std::uint64_t>(tensor, store);
    case DType::I64:
      return convert_elements<To, std::int64_t>(tensor, store);
    default:
      fail(412, label(tensor), " is ", io::name_of(tensor.dtype), ", expected an integer type or BOOL");
    }
  } else {
    switch (tensor.dtype) {
    case DType::F64:
      return convert_elements<To, double>(tensor, store);
    case DType::F32:
      return convert_elements<To, float>(tensor, store);
    case DType::F16:
      return convert_elements<To, float16>(tensor, store);
    case DType::BF16:
      return convert_elements<To, bfloat16>(tensor, store);
    default:
      fail(412, label(tensor), " is ", io::name_of(tensor.dtype), ", expected F64, F32, F16 or BF16");
    }
  }
}

template <class View> bool is_row_major(View const& view) {
  std::size_t stride = 1;
  for (std::size_t d = View::rank; d-- > 0;) {
    if (view.extent(d) > 1 && std::size_t(view.stride(d)) != stride) return false;
    stride *= view.extent(d);
  }
  return true;
}

/// Where element i of the row-major order stands in a view of any strides.
template <class View> std::size_t strided_offset(View const& view, std::size_t i) {
  std::size_t offset = 0;
  for (std::size_t d = View::rank; d-- > 0; i /= view.extent(d))
    offset += i % view.extent(d) * std::size_t(view.stride(d));
  return offset;
}

} // namespace kokomo::inline v0::detail

namespace kokomo::inline v0::io {

/// Types that `read` converts to: the storage types from F64, F32, F16 and BF16, integers from integers and BOOL.
template <class T>
concept Readable = std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, bfloat16> ||
    std::is_same_v<T, float16> || std::is_same_v<T, std::int64_t> || std::is_same_v<T, std::int32_t> ||
    std::is_same_v<T, std::uint8_t>;

/// \throws Error 413 unless `tensor` has the `expected` shape.
inline void expect_shape(TensorInfo const& tensor, std::vector<std::int64_t> const& expected) {
  detail::require(tensor.shape == expected, 413, detail::label(tensor), " has shape ", detail::shape_text(tensor.shape),
                  ", expected ", detail::shape_text(expected));
}

/// Reads all elements in row-major order. Floating types round to nearest, ties to even, and F64 reaches a 16-bit type
/// by way of float; integers must fit.
///
/// \param[out] out [tensor.elements()]; what it holds after an error is unspecified
/// \throws Error 412 if the dtype does not convert to T, 413 if `out` has another size, 414 if an integer does not fit
template <Readable T> void read(TensorInfo const& tensor, std::span<T> out) {
  detail::require(std::cmp_equal(out.size(), tensor.elements()), 413, detail::label(tensor), " has shape ",
                  detail::shape_text(tensor.shape), " with ", tensor.elements(), " elements, expected ", out.size());
  if (tensor.dtype != dtype_of_v<T>)
    detail::decode<T>(tensor, [out](std::int64_t i, T value) { out[std::size_t(i)] = value; });
  else if (!out.empty())
    std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
}

/// \throws Error 412, 414 as `read` would; of floating types it looks at the dtype alone
template <Readable T> void expect_readable(TensorInfo const& tensor) {
  if (tensor.dtype == dtype_of_v<T>) return;
  TensorInfo looked_at = tensor;
  if constexpr (!std::is_integral_v<T>) looked_at.shape = {0}, looked_at.bytes = {};
  detail::decode<T>(looked_at, [](std::int64_t, T) {});
}

/// All elements in row-major order. See above.
template <Readable T> std::vector<T> read(TensorInfo const& tensor) {
  std::vector<T> out(std::size_t(tensor.elements()));
  read(tensor, std::span<T>(out));
  return out;
}

/// Reads into a View of the tensor's shape, of any layout, that the host can access. Conversions and errors as `read`.
///
/// \throws Error 413 if the shapes differ
template <class View> void read_into(TensorInfo const& tensor, View const& out) {
  using T = typename View::value_type;
  static_assert(Readable<T>, "kokomo::io::read_into: the View holds a type that files do not convert to");
  static_assert(bool(Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename View::memory_space>::accessible),
                "kokomo::io::read_into: the host must be able to access the View; read into a mirror and copy it");
  std::vector<std::int64_t> extents(View::rank);
  for (std::size_t d = 0; d < View::rank; ++d) extents[d] = std::int64_t(out.extent(d));
  expect_shape(tensor, extents);
  if (detail::is_row_major(out)) return read(tensor, std::span<T>(out.data(), out.size()));
  detail::decode<T>(
      tensor, [&out](std::int64_t i, T value) { out.data()[detail::strided_offset(out, std::size_t(i))] = value; });
}

/// Rows begin .. begin + count of the first dimension, as a tensor of its own: an expert's part of a fused tensor.
///
/// \throws Error 413 if the tensor has no such rows
inline TensorInfo rows(TensorInfo const& tensor, std::int64_t begin, std::int64_t count) {
  detail::require(!tensor.shape.empty() && begin >= 0 && count >= 0 && begin <= tensor.shape[0] &&
                      count <= tensor.shape[0] - begin,
                  413, detail::label(tensor), " has shape ", detail::shape_text(tensor.shape), ", expected ", count,
                  " rows from row ", begin);
  TensorInfo part = tensor;
  std::size_t const row = tensor.shape[0] > 0 ? tensor.bytes.size() / std::size_t(tensor.shape[0]) : 0;
  part.shape[0] = count;
  part.bytes = tensor.bytes.subspan(std::size_t(begin) * row, std::size_t(count) * row);
  return part;
}

/// Element `index` of the first dimension, which disappears: expert `index` of [experts, rows, columns].
///
/// \throws Error 413 if the tensor has no such element
inline TensorInfo part(TensorInfo const& tensor, std::int64_t index) {
  TensorInfo one = rows(tensor, index, 1);
  one.shape.erase(one.shape.begin());
  return one;
}

} // namespace kokomo::inline v0::io

#endif
