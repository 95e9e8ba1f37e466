// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_QUANTIZED_HPP
#define KOKOMO_IO_QUANTIZED_HPP

#include <kokomo/error.hpp>
#include <kokomo/io/config.hpp>
#include <kokomo/io/tensor.hpp>
#include <kokomo/quantization/formats.hpp>

#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace kokomo::inline v0::io {

/// What a checkpoint's `quantization_config` says of its experts' weights.
struct Quantization {
  enum class Method {
    none,
    mxfp4, ///< X is X_blocks, U8 [..., rows, groups, 16], and X_scales, U8 [..., rows, groups] (GPT-OSS)
    fp8    ///< X is F8_E4M3 [rows, columns], beside X_scale_inv [row blocks, column blocks] (DeepSeek-V3)
  };
  Method method = Method::none;
  std::int64_t block_rows = 0, block_columns = 0; ///< of fp8: the weights that share a scale
};

/// \throws Error 431 to 433 for a quantization_config that is not one, 435 for methods that are not read
inline Quantization quantization_of(Config const& config) {
  if (!config.has("quantization_config")) return {};
  auto const part = config.object("quantization_config");
  auto const method = part.string("quant_method");
  if (method == "mxfp4") return {Quantization::Method::mxfp4};
  detail::require(method == "fp8", 435, part.name(), ": quant_method is ", detail::printable(method),
                  ", expected mxfp4 or fp8");
  auto const format = part.string_or("fmt", "e4m3");
  detail::require(format == "e4m3", 435, part.name(), ": fmt is ", detail::printable(format), ", expected e4m3");
  auto const block = part.integers_or_none("weight_block_size");
  detail::require(block.size() == 2, 435, part.name(), ": weight_block_size has ", block.size(),
                  " numbers, expected 2: scales for whole tensors or rows are not read");
  detail::require(block[0] >= 1 && block[1] >= 1, 433, part.name(), ": weight_block_size is [", block[0], ", ",
                  block[1], "], expected 1 and more");
  return {Quantization::Method::fp8, block[0], block[1]};
}

} // namespace kokomo::inline v0::io

namespace kokomo::inline v0::detail {

inline void expect_dtype(io::TensorInfo const& tensor, io::DType dtype) {
  require(tensor.dtype == dtype, 412, label(tensor), " is ", io::name_of(tensor.dtype), ", expected ",
          io::name_of(dtype));
}

/// Blocks of MXFP4 with their last two extents, [groups, 16], as one: bytes of a row.
inline io::TensorInfo rows_of_blocks(io::TensorInfo const& blocks) {
  expect_dtype(blocks, io::DType::U8);
  require(blocks.shape.size() >= 2 && blocks.shape.back() == 16, 413, label(blocks), " has shape ",
          shape_text(blocks.shape), ", expected [..., rows, groups, 16]");
  io::TensorInfo joined = blocks;
  joined.shape.pop_back();
  joined.shape.back() *= 16;
  return joined;
}

inline std::int64_t blocks_of(std::int64_t extent, std::int64_t block) {
  return extent / block + (extent % block != 0 ? 1 : 0);
}

} // namespace kokomo::inline v0::detail

namespace kokomo::inline v0::io {

/// The values of MXFP4 blocks, row-major [..., rows, 32 groups]. Exact in float and in bfloat16.
///
/// \param[in] blocks U8 [..., rows, groups, 16]: of two columns in a byte the even one is the low nibble
/// \param[in] scales U8 or F8_E8M0 [..., rows, groups]
/// \param[out] out [2 blocks.elements()]
/// \throws Error 412, 413 for tensors, or an `out`, of other types or shapes
template <Readable T>
requires(!std::is_integral_v<T>) void dequantize_mxfp4(TensorInfo const& blocks, TensorInfo const& scales,
                                                       std::span<T> out) {
  (void)detail::rows_of_blocks(blocks); // checks
  if (scales.dtype != DType::F8_E8M0) detail::expect_dtype(scales, DType::U8);
  expect_shape(scales, {blocks.shape.begin(), blocks.shape.end() - 1});
  detail::require(std::cmp_equal(out.size(), 2 * blocks.elements()), 413, detail::label(blocks), " holds ",
                  2 * blocks.elements(), " weights, expected ", out.size());
  for (std::size_t i = 0; i < blocks.bytes.size(); ++i) {
    auto const byte = std::to_integer<std::uint8_t>(blocks.bytes[i]);
    auto const scale = std::to_integer<std::uint8_t>(scales.bytes[i / 16]);
    out[2 * i] = static_cast<T>(Mxfp4::dequantize(byte & 15, scale, 0));
    out[2 * i + 1] = static_cast<T>(Mxfp4::dequantize(byte >> 4, scale, 0));
  }
}

/// The values of float8 weights with a scale a block: code times scale in float, then rounded to T.
///
/// \param[in] weight F8_E4M3 [rows, columns]
/// \param[in] scales F32 (or another floating type) [row blocks, column blocks], what multiplies; blocks as
///            `quantization` says, the last ones may be smaller
/// \param[out] out [weight.elements()]
/// \throws Error 412, 413 for tensors, or an `out`, of other types or shapes
template <Readable T>
requires(!std::is_integral_v<T>) void dequantize_fp8(TensorInfo const& weight, TensorInfo const& scales,
                                                     Quantization const& quantization, std::span<T> out) {
  detail::expect_dtype(weight, DType::F8_E4M3);
  detail::require(quantization.block_rows >= 1 && quantization.block_columns >= 1, 435, detail::label(weight),
                  " has scales of blocks of ", quantization.block_rows, " x ", quantization.block_columns,
                  " weights, expected 1 and more");
  detail::require(weight.shape.size() == 2, 413, detail::label(weight), " has shape ", detail::shape_text(weight.shape),
                  ", expected [rows, columns]");
  auto const rows = weight.shape[0], columns = weight.shape[1];
  auto const across = detail::blocks_of(columns, quantization.block_columns);
  expect_shape(scales, {detail::blocks_of(rows, quantization.block_rows), across});
  detail::require(std::cmp_equal(out.size(), weight.elements()), 413, detail::label(weight), " holds ",
                  weight.elements(), " weights, expected ", out.size());
  auto const scale = read<float>(scales);
  for (std::int64_t n = 0; n < rows; ++n)
    for (std::int64_t k = 0; k < columns; ++k) {
      auto const at = std::size_t(n * columns + k);
      auto const block = n / quantization.block_rows * across + k / quantization.block_columns;
      out[at] = static_cast<T>(
          Fp8Blocks::dequantize(std::to_integer<std::uint8_t>(weight.bytes[at]), scale[std::size_t(block)], 0));
    }
}

/// A checkpoint's tensors by their names, the quantised ones as ordinary floating ones: MXFP4 as BF16, which holds it
/// exactly, in the shape [..., rows, columns]; float8 as F32. The others as they are.
///
/// One tensor is dequantised at a time: it is valid until the next one is. Not to be used by several threads at once.
class DequantizedTensors {
public:
  using Find = std::function<TensorInfo const*(std::string_view name)>;

  /// \param[in] find the file's tensor of a name, or null: [&](auto name) { return checkpoint.find(name); }
  DequantizedTensors(Find find, Quantization const& quantization)
      : m_find(std::move(find)), m_quantization(quantization) {}

  /// The tensor of that name, or null.
  /// \throws Error 411 if its scales are missing; 412, 413 if they, or its blocks, have another type or shape
  TensorInfo const* find(std::string_view name) {
    if (m_current.name == name && !m_current.shape.empty()) return &m_current;
    std::string const text(name);
    auto const* const plain = m_find(name);
    if (m_quantization.method == Quantization::Method::mxfp4 && plain == nullptr) {
      if (auto const* const blocks = m_find(text + "_blocks")) {
        auto const& scales = scales_of(*blocks, text + "_scales");
        hold<bfloat16>(*blocks, detail::rows_of_blocks(*blocks).shape, 2,
                       [&](std::span<bfloat16> out) { dequantize_mxfp4(*blocks, scales, out); });
        m_current.name = text;
        return &m_current;
      }
    }
    if (m_quantization.method == Quantization::Method::fp8 && plain != nullptr && plain->dtype == DType::F8_E4M3) {
      auto const& scales = scales_of(*plain, text + "_scale_inv");
      hold<float>(*plain, plain->shape, 1,
                  [&](std::span<float> out) { dequantize_fp8(*plain, scales, m_quantization, out); });
      return &m_current;
    }
    return plain;
  }

private:
  TensorInfo const& scales_of(TensorInfo const& tensor, std::string const& name) const {
    auto const* const scales = m_find(name);
    detail::require(scales != nullptr, 411, detail::label(tensor), " has no scales: expected a tensor ",
                    detail::printable(name));
    return *scales;
  }

  /// The current tensor becomes one in memory, of `packed` times as many columns.
  template <class T, class Fill>
  void hold(TensorInfo const& from, std::vector<std::int64_t> shape, std::int64_t packed, Fill const& fill) {
    m_current.shape.clear(); // not valid while it is being made
    auto& values = std::get<std::vector<T>>(m_values);
    values.resize(std::size_t(from.elements() * packed));
    fill(std::span<T>(values));
    detail::require(shape.back() <= std::numeric_limits<std::int64_t>::max() / packed, 413, detail::label(from),
                    " has shape ", detail::shape_text(from.shape), ", expected one whose weights can be counted");
    shape.back() *= packed;
    detail::require(detail::byte_size(shape, dtype_of_v<T>).has_value(), 413, detail::label(from), " has shape ",
                    detail::shape_text(from.shape), ", expected one whose weights can be counted");
    m_current = {from.name, dtype_of_v<T>, std::move(shape), std::as_bytes(std::span<T const>(values)), from.file};
  }

  Find m_find;
  Quantization m_quantization;
  TensorInfo m_current;
  std::tuple<std::vector<float>, std::vector<bfloat16>> m_values;
};

} // namespace kokomo::inline v0::io

#endif
