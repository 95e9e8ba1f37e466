// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_SAFETENSORS_HEADER_HPP
#define KOKOMO_IO_SAFETENSORS_HEADER_HPP

#include <kokomo/error.hpp>
#include <kokomo/io/file_bytes.hpp>
#include <kokomo/io/tensor.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kokomo::inline v0::detail {

struct SafetensorsHeader {
  std::vector<io::TensorInfo> tensors; ///< by name
  std::map<std::string, std::string> metadata;
};

/// Reads the JSON header event by event. No document is built: memory stays in proportion to the header, nesting that
/// the format does not have ends the reading at once, and keys that stand twice are seen.
class SafetensorsHeaderReader : public nlohmann::json_sax<nlohmann::json> {
public:
  SafetensorsHeaderReader(std::shared_ptr<FileBytes const> const& file, std::span<std::byte const> data)
      : m_file(file, &file->name()), m_data(data) {}

  SafetensorsHeader take() { return std::move(m_header); }

  bool start_object(std::size_t) override {
    if (m_at == At::document) {
      m_at = At::header;
    } else if (m_at == At::header && m_key == "__metadata__") {
      require(!m_has_metadata, 404, *m_file, ": __metadata__ stands twice in the header");
      m_has_metadata = true;
      m_at = At::metadata;
    } else if (m_at == At::header) {
      m_dtype.reset();
      m_shape.reset();
      m_offsets.reset();
      m_at = At::tensor;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(std::string& key) override {
    if (m_at == At::tensor) {
      bool const twice =
          (key == "dtype" && m_dtype) || (key == "shape" && m_shape) || (key == "data_offsets" && m_offsets);
      require(!twice, 404, tensor(), ": key ", key, " stands twice");
      require(key == "dtype" || key == "shape" || key == "data_offsets", 404, tensor(), ": unknown key ",
              printable(key), ", expected dtype, shape and data_offsets");
      m_field = key;
    } else {
      m_key = key;
    }
    return true;
  }

  bool end_object() override {
    if (m_at == At::tensor) add_tensor();
    m_at = m_at == At::header ? At::document : At::header;
    return true;
  }

  bool string(std::string& value) override {
    if (m_at == At::metadata) {
      require(m_header.metadata.emplace(m_key, value).second, 404, *m_file, ": __metadata__ holds key ",
              printable(m_key), " twice");
    } else if (m_at == At::tensor && m_field == "dtype") {
      m_dtype = io::dtype_named(value);
      require(m_dtype.has_value(), 406, tensor(), " has dtype ", printable(value), ", expected one of ", dtype_names());
    } else {
      unexpected("the string " + printable(value));
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (m_at == At::tensor && m_field == "shape") {
      m_shape.emplace();
      m_at = At::shape;
    } else if (m_at == At::tensor && m_field == "data_offsets") {
      m_offsets.emplace();
      m_at = At::offsets;
    } else {
      unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    m_at = At::tensor;
    return true;
  }

  bool number_unsigned(std::uint64_t value) override {
    if (m_at == At::shape && std::in_range<std::int64_t>(value))
      m_shape->push_back(std::int64_t(value));
    else if (m_at == At::offsets && m_offsets->size() < 2)
      m_offsets->push_back(value);
    else
      unexpected(std::to_string(value));
    return true;
  }

  bool number_integer(std::int64_t value) override { return unexpected(std::to_string(value)); }
  bool number_float(double, std::string const& text) override { return unexpected(printable(text)); }
  bool boolean(bool value) override { return unexpected(value ? "true" : "false"); }
  bool null() override { return unexpected("null"); }
  bool binary(nlohmann::json::binary_t&) override { return unexpected("binary data"); }

  bool parse_error(std::size_t, std::string const&, nlohmann::json::exception const& problem) override {
    fail(403, *m_file, ": the header is not valid JSON: ", printable(problem.what(), 400));
  }

private:
  enum class At { document, header, metadata, tensor, shape, offsets };

  std::string tensor() const { return tensor_label(m_key, *m_file); }

  bool unexpected(std::string const& found) const {
    switch (m_at) {
    case At::document:
      fail(403, *m_file, ": the header is ", found, ", expected an object");
    case At::header:
      fail(404, tensor(), " is described by ", found, ", expected an object");
    case At::metadata:
      fail(404, *m_file, ": __metadata__ holds ", found, " for key ", printable(m_key), ", expected a string");
    case At::tensor:
      fail(404, tensor(), ": ", m_field, " is ", found, ", expected ", m_field == "dtype" ? "a string" : "an array");
    case At::shape:
      fail(407, tensor(), ": the shape holds ", found, ", expected integers from 0 to 2^63 - 1");
    case At::offsets:
      break;
    }
    fail(408, tensor(), ": data_offsets hold ", found, ", expected two integers, begin and end");
  }

  void add_tensor() {
    require(m_dtype.has_value(), 404, tensor(), " has no dtype");
    require(m_shape.has_value(), 404, tensor(), " has no shape");
    require(m_offsets.has_value(), 404, tensor(), " has no data_offsets");
    require(m_offsets->size() == 2, 408, tensor(), ": data_offsets hold ", m_offsets->size(),
            " numbers, expected two, begin and end");

    std::uint64_t const begin = m_offsets->front(), end = m_offsets->back();
    require(begin <= end, 408, tensor(), ": data_offsets begin at ", begin, " and end at ", end,
            ", expected begin <= end");
    require(end <= m_data.size(), 408, tensor(), ": data_offsets end at ", end, ", expected at most ", m_data.size(),
            ", the bytes that follow the header; is the file truncated?");

    auto const bytes = byte_size(*m_shape, *m_dtype);
    require(bytes.has_value(), 407, tensor(), ": the shape ", shape_text(*m_shape), " of ", io::name_of(*m_dtype),
            " passes 2^63 bytes");
    require(std::cmp_equal(*bytes, end - begin), 409, tensor(), " has ", end - begin, " bytes, expected ", *bytes,
            " for shape ", shape_text(*m_shape), " of ", io::name_of(*m_dtype));
    m_header.tensors.push_back({.name = std::move(m_key),
                                .dtype = *m_dtype,
                                .shape = std::move(*m_shape),
                                .bytes = m_data.subspan(begin, end - begin),
                                .file = m_file});
  }

  std::shared_ptr<std::string const> m_file; ///< the name; keeps the file mapped
  std::span<std::byte const> m_data;
  SafetensorsHeader m_header;

  At m_at = At::document;
  std::string m_key;   ///< of the header or of its metadata
  std::string m_field; ///< of a tensor's entry
  bool m_has_metadata = false;
  std::optional<io::DType> m_dtype;
  std::optional<std::vector<std::int64_t>> m_shape;
  std::optional<std::vector<std::uint64_t>> m_offsets;
};

/// Every byte of the data must belong to exactly one tensor, as in the format's reference implementation.
inline void expect_exact_cover(std::vector<io::TensorInfo> const& tensors, std::span<std::byte const> data,
                               std::string const& file) {
  std::vector<io::TensorInfo const*> in_order;
  in_order.reserve(tensors.size());
  for (auto const& tensor : tensors) in_order.push_back(&tensor);
  auto const begin_of = [&](io::TensorInfo const* t) { return std::size_t(t->bytes.data() - data.data()); };
  std::sort(in_order.begin(), in_order.end(), [&](auto const* a, auto const* b) {
    return std::pair(begin_of(a), a->bytes.size()) < std::pair(begin_of(b), b->bytes.size());
  });

  std::size_t covered = 0;
  io::TensorInfo const* previous = nullptr;
  for (auto const* tensor : in_order) {
    std::size_t const begin = begin_of(tensor);
    require(begin >= covered, 410, label(*tensor), " begins at byte ", begin, " of the data and overlaps tensor ",
            previous != nullptr ? printable(previous->name) : "", ", which ends at ", covered);
    require(begin == covered, 410, label(*tensor), " begins at byte ", begin, " of the data, expected ", covered,
            ": the bytes between belong to no tensor");
    covered += tensor->bytes.size();
    previous = tensor;
  }
  require(covered == data.size(), 410, file, ": the tensors end at byte ", covered, " of the data, expected ",
          data.size(), ", the end of the file");
}

inline SafetensorsHeader read_safetensors_header(std::shared_ptr<FileBytes const> const& file) {
  constexpr std::size_t prefix = sizeof(std::uint64_t);
  constexpr std::uint64_t largest = 100'000'000; // as in the format's reference implementation
  auto const bytes = file->bytes();
  require(bytes.size() >= prefix, 402, file->name(), " has ", bytes.size(),
          " bytes, expected at least 8, the length of a safetensors header");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), prefix);
  require(length > 0 && length <= largest && length <= bytes.size() - prefix, 402, file->name(),
          ": the header has length ", length, ", expected 1 to ",
          std::min<std::uint64_t>(largest, bytes.size() - prefix), "; is this a safetensors file, and whole?");

  std::string_view const text = file->text().substr(prefix, length);
  require(text.front() == '{', 403, file->name(), ": the header is not valid JSON: it begins with '",
          printable(text.substr(0, 1)), "', expected '{'");
  // The JSON library takes a NUL for the end of the text, and would let anything follow it.
  require(text.find('\0') == std::string_view::npos, 403, file->name(),
          ": the header is not valid JSON: it holds a NUL");
  auto const data = bytes.subspan(prefix + length);
  SafetensorsHeaderReader reader(file, data);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  SafetensorsHeader header = reader.take();

  auto& tensors = header.tensors;
  std::sort(tensors.begin(), tensors.end(), [](auto const& a, auto const& b) { return a.name < b.name; });
  auto const twice =
      std::adjacent_find(tensors.begin(), tensors.end(), [](auto const& a, auto const& b) { return a.name == b.name; });
  if (twice != tensors.end()) fail(405, label(*twice), " stands twice in the header");
  expect_exact_cover(tensors, data, file->name());
  return header;
}

/// Among tensors that are sorted by name. Null: there is none.
inline io::TensorInfo const* find_tensor(std::vector<io::TensorInfo> const& tensors, std::string_view name) {
  auto const at = std::lower_bound(tensors.begin(), tensors.end(), name,
                                   [](io::TensorInfo const& tensor, std::string_view n) { return tensor.name < n; });
  return at != tensors.end() && at->name == name ? &*at : nullptr;
}

inline io::TensorInfo const& tensor_at(std::vector<io::TensorInfo> const& tensors, std::string_view name,
                                       std::string const& where) {
  auto const* const tensor = find_tensor(tensors, name);
  require(tensor != nullptr, 411, "tensor ", printable(name), " is not in ", where, ", which has ", tensors.size(),
          " tensors");
  return *tensor;
}

} // namespace kokomo::inline v0::detail

#endif
