// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_DTYPE_HPP
#define KOKOMO_IO_DTYPE_HPP

#include <kokomo/half.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kokomo::inline v0::io {

/// Element types of safetensors files, under the format's own names. The sub-byte and complex types of the format
/// (F4, F6_E2M3, F6_E3M2, C64) are not among them: a file that holds one is refused with error 406.
enum class DType : std::uint8_t {
  BOOL,
  U8,
  I8,
  F8_E5M2,
  F8_E4M3,
  F8_E8M0,
  I16,
  U16,
  F16,
  BF16,
  I32,
  U32,
  F32,
  F64,
  I64,
  U64
};

} // namespace kokomo::inline v0::io

namespace kokomo::inline v0::detail {

struct DTypeFacts {
  std::string_view name;
  std::size_t bytes;
};

/// In the order of io::DType.
inline constexpr std::array<DTypeFacts, 16> dtype_facts{{{"BOOL", 1},
                                                         {"U8", 1},
                                                         {"I8", 1},
                                                         {"F8_E5M2", 1},
                                                         {"F8_E4M3", 1},
                                                         {"F8_E8M0", 1},
                                                         {"I16", 2},
                                                         {"U16", 2},
                                                         {"F16", 2},
                                                         {"BF16", 2},
                                                         {"I32", 4},
                                                         {"U32", 4},
                                                         {"F32", 4},
                                                         {"F64", 8},
                                                         {"I64", 8},
                                                         {"U64", 8}}};

/// "BOOL, U8, ...": what an error expects.
inline std::string dtype_names() {
  std::string names;
  for (auto const& facts : dtype_facts) names += (names.empty() ? "" : ", ") + std::string(facts.name);
  return names;
}

template <class T> inline constexpr std::optional<io::DType> dtype_of{};
template <> inline constexpr std::optional<io::DType> dtype_of<bool>{io::DType::BOOL};
template <> inline constexpr std::optional<io::DType> dtype_of<std::uint8_t>{io::DType::U8};
template <> inline constexpr std::optional<io::DType> dtype_of<std::int8_t>{io::DType::I8};
template <> inline constexpr std::optional<io::DType> dtype_of<std::uint16_t>{io::DType::U16};
template <> inline constexpr std::optional<io::DType> dtype_of<std::int16_t>{io::DType::I16};
template <> inline constexpr std::optional<io::DType> dtype_of<std::uint32_t>{io::DType::U32};
template <> inline constexpr std::optional<io::DType> dtype_of<std::int32_t>{io::DType::I32};
template <> inline constexpr std::optional<io::DType> dtype_of<std::uint64_t>{io::DType::U64};
template <> inline constexpr std::optional<io::DType> dtype_of<std::int64_t>{io::DType::I64};
template <> inline constexpr std::optional<io::DType> dtype_of<float16>{io::DType::F16};
template <> inline constexpr std::optional<io::DType> dtype_of<bfloat16>{io::DType::BF16};
template <> inline constexpr std::optional<io::DType> dtype_of<float>{io::DType::F32};
template <> inline constexpr std::optional<io::DType> dtype_of<double>{io::DType::F64};

} // namespace kokomo::inline v0::detail

namespace kokomo::inline v0::io {

/// Name of a dtype as files spell it: "BF16".
constexpr std::string_view name_of(DType dtype) {
  return detail::dtype_facts[std::size_t(dtype)].name;
}

/// Bytes of one element.
constexpr std::size_t size_of(DType dtype) {
  return detail::dtype_facts[std::size_t(dtype)].bytes;
}

/// The dtype of that name; none if the name is unknown.
constexpr std::optional<DType> dtype_named(std::string_view name) {
  auto const at = std::find_if(detail::dtype_facts.begin(), detail::dtype_facts.end(),
                               [&](auto const& facts) { return facts.name == name; });
  if (at == detail::dtype_facts.end()) return std::nullopt;
  return DType(at - detail::dtype_facts.begin());
}

/// The dtype in which a C++ type is stored: `dtype_of_v<bfloat16> == DType::BF16`.
template <class T>
requires(detail::dtype_of<T>.has_value()) inline constexpr DType dtype_of_v = *detail::dtype_of<T>;

} // namespace kokomo::inline v0::io

#endif
