// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BENCH_SUPPORT_JSON_HPP
#define KOKOMO_BENCH_SUPPORT_JSON_HPP

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace bench {

/// Writes one JSON object, field after field. The benchmarks need no more, and no library for it.
class Json {
public:
  Json& add(std::string const& key, std::string const& value) { return raw(key, quoted(value)); }
  Json& add(std::string const& key, char const* value) { return raw(key, quoted(value)); }
  Json& add(std::string const& key, double value) { return raw(key, number(value)); }
  Json& add(std::string const& key, long value) { return raw(key, std::to_string(value)); }
  Json& add(std::string const& key, int value) { return raw(key, std::to_string(value)); }
  Json& add(std::string const& key, Json const& value) { return raw(key, value.text()); }
  Json& add(std::string const& key, std::vector<double> const& values) {
    std::string list;
    for (double const value : values) list += (list.empty() ? "" : ", ") + number(value);
    return raw(key, "[" + list + "]");
  }
  Json& add(std::string const& key, std::vector<Json> const& values) {
    std::string list;
    for (Json const& value : values) list += (list.empty() ? "\n  " : ",\n  ") + value.text();
    return raw(key, "[" + list + "]");
  }
  std::string text() const { return "{" + m_fields + "}"; }

private:
  Json& raw(std::string const& key, std::string const& value) {
    m_fields += (m_fields.empty() ? "" : ", ") + quoted(key) + ": " + value;
    return *this;
  }
  static std::string number(double value) {
    if (!std::isfinite(value)) return "null";
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", value);
    return text;
  }
  static std::string quoted(std::string const& text) {
    std::string result = "\"";
    for (char const c : text) {
      if (c == '"' || c == '\\') result += '\\';
      result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return result + '"';
  }

  std::string m_fields;
};

} // namespace bench

#endif
