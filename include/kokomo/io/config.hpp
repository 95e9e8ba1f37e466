// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_CONFIG_HPP
#define KOKOMO_IO_CONFIG_HPP

#include <kokomo/error.hpp>
#include <kokomo/io/file_bytes.hpp>
#include <kokomo/io/json.hpp>
#include <kokomo/types.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kokomo::inline v0::io {

/// A published config.json, or an object inside of it, with typed access. A key whose value is null is absent.
///
/// Getters take a key; those without `_or` need it (error 431), the others return their second argument where it is
/// absent. A value of another type is error 432 and one outside its range error 433, in both forms.
class Config {
public:
  /// \throws Error 401 if the file cannot be read, 403 if it is not JSON, 432 if it is not an object
  explicit Config(std::filesystem::path const& path) : Config(detail::FileBytes(path)) {}

  /// The same from memory. `name` stands in errors.
  static Config parse(std::string_view text, std::string name) {
    return Config(detail::FileBytes(std::as_bytes(std::span(text)), std::move(name)));
  }

  Config(nlohmann::json values, std::string name) : m_values(std::move(values)), m_name(std::move(name)) {
    detail::require(m_values.is_object(), 432, m_name, " is ", m_values.type_name(), ", expected an object");
  }

  nlohmann::json const& json() const { return m_values; }
  /// The file, and the way to the object inside of it.
  std::string const& name() const { return m_name; }
  bool has(std::string_view key) const { return find(key) != nullptr; }

  /// An integer from `lowest` to `highest`.
  std::int64_t integer(std::string_view key, std::int64_t lowest = std::numeric_limits<std::int64_t>::min(),
                       std::int64_t highest = std::numeric_limits<std::int64_t>::max()) const {
    return integer_of(need(key), key, lowest, highest);
  }
  std::int64_t integer_or(std::string_view key, std::int64_t fallback,
                          std::int64_t lowest = std::numeric_limits<std::int64_t>::min(),
                          std::int64_t highest = std::numeric_limits<std::int64_t>::max()) const {
    return has(key) ? integer(key, lowest, highest) : fallback;
  }

  /// An extent: 1 to 2^31 - 1.
  index_t size(std::string_view key) const { return index_t(integer(key, 1, std::numeric_limits<index_t>::max())); }
  index_t size_or(std::string_view key, index_t fallback) const { return has(key) ? size(key) : fallback; }

  double number(std::string_view key) const { return get<double>(key, &nlohmann::json::is_number, "a number"); }
  double number_or(std::string_view key, double fallback) const { return has(key) ? number(key) : fallback; }

  bool boolean(std::string_view key) const { return get<bool>(key, &nlohmann::json::is_boolean, "true or false"); }
  bool boolean_or(std::string_view key, bool fallback) const { return has(key) ? boolean(key) : fallback; }

  std::string string(std::string_view key) const {
    return get<std::string>(key, &nlohmann::json::is_string, "a string");
  }
  std::string string_or(std::string_view key, std::string fallback) const {
    return has(key) ? string(key) : std::move(fallback);
  }

  /// A list of integers or of strings, such as mlp_only_layers and layer_types. Absent: empty.
  std::vector<std::int64_t> integers_or_none(std::string_view key) const {
    std::vector<std::int64_t> list;
    for (auto const& item : array_or_none(key))
      list.push_back(
          integer_of(item, key, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()));
    return list;
  }
  std::vector<std::string> strings_or_none(std::string_view key) const {
    std::vector<std::string> list;
    for (auto const& item : array_or_none(key))
      list.push_back(expect(item, key, item.is_string(), "a list of strings").template get<std::string>());
    return list;
  }

  /// The object under a key.
  Config object(std::string_view key) const {
    return {get<nlohmann::json>(key, &nlohmann::json::is_object, "an object"), m_name + ": " + std::string(key)};
  }

  /// What describes the language model: text_config where there is one, as in models of several modalities, else this.
  Config text() const { return has("text_config") ? object("text_config") : *this; }

private:
  explicit Config(detail::FileBytes const& file) : Config(detail::parse_json(file), file.name()) {}

  nlohmann::json const* find(std::string_view key) const {
    auto const at = m_values.find(key);
    return at == m_values.end() || at->is_null() ? nullptr : &*at;
  }

  nlohmann::json const& need(std::string_view key) const {
    auto const* const value = find(key);
    detail::require(value != nullptr, 431, m_name, " has no ", key);
    return *value;
  }

  template <class T> T get(std::string_view key, bool (nlohmann::json::*is_right)() const, char const* type) const {
    auto const& value = need(key);
    return expect(value, key, (value.*is_right)(), type).template get<T>();
  }

  nlohmann::json const& expect(nlohmann::json const& value, std::string_view key, bool right, char const* type) const {
    if (!right) {
      auto const text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      detail::fail(432, m_name, ": ", key, " is ", detail::printable(text), ", expected ", type);
    }
    return value;
  }

  std::int64_t integer_of(nlohmann::json const& value, std::string_view key, std::int64_t lowest,
                          std::int64_t highest) const {
    expect(value, key, value.is_number_integer(), "an integer");
    bool const fits = !value.is_number_unsigned() || std::in_range<std::int64_t>(value.get<std::uint64_t>());
    auto const integer = fits ? value.get<std::int64_t>() : 0;
    detail::require(fits && integer >= lowest && integer <= highest, 433, m_name, ": ", key, " is ", value.dump(),
                    ", expected ", lowest, " to ", highest);
    return integer;
  }

  std::span<nlohmann::json const> array_or_none(std::string_view key) const {
    if (!has(key)) return {};
    auto const& value = need(key);
    return expect(value, key, value.is_array(), "a list").get_ref<nlohmann::json::array_t const&>();
  }

  nlohmann::json m_values;
  std::string m_name;
};

} // namespace kokomo::inline v0::io

#endif
