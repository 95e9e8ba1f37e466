// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_JSON_HPP
#define KOKOMO_IO_JSON_HPP

#include <kokomo/error.hpp>
#include <kokomo/io/file_bytes.hpp>

#include <nlohmann/json.hpp>

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace kokomo::inline v0::detail {

/// Refuses what the JSON library lets pass: a key that stands twice in an object (it keeps the last one, others the
/// first) and nesting that no published file has.
class StrictJson {
public:
  explicit StrictJson(std::string const& file) : m_file(file) {}

  bool operator()(int depth, nlohmann::json::parse_event_t event, nlohmann::json const& value) {
    using Event = nlohmann::json::parse_event_t;
    constexpr int deepest = 64;
    if (event == Event::object_start || event == Event::array_start)
      require(depth < deepest, 403, m_file, " is not valid JSON: nested deeper than ", deepest);
    if (event == Event::object_start) m_keys.emplace_back();
    if (event == Event::object_end) m_keys.pop_back();
    if (event == Event::key) {
      auto const& key = value.get_ref<std::string const&>();
      require(m_keys.back().insert(key).second, 403, m_file, " is not valid JSON: key ", printable(key),
              " stands twice in one object");
    }
    return true;
  }

private:
  std::string const& m_file;
  std::vector<std::set<std::string>> m_keys; ///< of the open objects
};

/// Python writes NaN, Infinity and -Infinity where JSON has no number; published configurations hold some. They become
/// null, which the getters treat as absent.
inline std::string without_python_numbers(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool quoted = false;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t length = 0;
    if (!quoted)
      for (std::string_view const word : {"NaN", "Infinity", "-Infinity"})
        if (text.substr(i).starts_with(word)) length = word.size();
    if (length > 0) {
      out += "null";
      i += length;
      continue;
    }
    if (text[i] == '"') quoted = !quoted;
    if (quoted && text[i] == '\\' && i + 1 < text.size()) out += text[i++]; // the next character is escaped
    out += text[i++];
  }
  return out;
}

/// The document in `file`. \throws Error 403 if it is not valid JSON
inline nlohmann::json parse_json(FileBytes const& file) {
  // The JSON library takes a NUL for the end of the text.
  require(file.text().find('\0') == std::string_view::npos, 403, file.name(), " is not valid JSON: it holds a NUL");
  try {
    return nlohmann::json::parse(without_python_numbers(file.text()), StrictJson(file.name()));
  } catch (nlohmann::json::exception const& problem) {
    fail(403, file.name(), " is not valid JSON: ", printable(problem.what(), 400));
  }
}

} // namespace kokomo::inline v0::detail

#endif
