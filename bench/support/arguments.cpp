// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/arguments.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <sstream>

namespace bench {
namespace {

std::string joined(std::vector<std::string> const& items) {
  std::string text;
  for (auto const& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

} // namespace

Arguments::Arguments(int argc, char const* const* argv, std::set<std::string> const& valued,
                     std::set<std::string> const& flags) {
  for (int i = 1; i < argc; ++i) {
    std::string const option = argv[i];
    if (option.starts_with("--kokkos-")) continue;
    if (flags.count(option) > 0)
      m_flags.insert(option);
    else if (valued.count(option) > 0) {
      if (i + 1 == argc) throw UsageError(option + " has no value, expected one behind it");
      m_values[option] = argv[++i];
    } else
      throw UsageError("unknown argument '" + option + "'; --help lists what there is");
  }
}

std::string Arguments::text(std::string const& option, std::string const& otherwise) const {
  auto const found = m_values.find(option);
  return found == m_values.end() ? otherwise : found->second;
}

std::vector<std::string> Arguments::list(std::string const& option, std::string const& otherwise,
                                         std::vector<std::string> const& known) const {
  std::string const all = text(option, otherwise);
  if (all == "all" && !known.empty()) return known;
  std::vector<std::string> items;
  std::stringstream stream(all + ",");
  for (std::string item; std::getline(stream, item, ',');) {
    if (!known.empty() && std::find(known.begin(), known.end(), item) == known.end())
      throw UsageError(option + " names '" + item + "', expected some of: " + joined(known) + ", or all");
    items.push_back(item);
  }
  return items;
}

std::vector<long> Arguments::numbers(std::string const& option, std::string const& otherwise, long lowest,
                                     long highest) const {
  std::vector<long> numbers;
  for (auto const& item : list(option, otherwise)) numbers.push_back(whole_number(option, item, lowest, highest));
  return numbers;
}

double Arguments::seconds(std::string const& option, double otherwise) const {
  std::string const all = text(option, "");
  if (all.empty() && m_values.count(option) == 0) return otherwise;
  std::istringstream stream(all);
  double value = 0;
  if (!(stream >> value) || !stream.eof() || !std::isfinite(value) || value < 0)
    throw UsageError(option + " is '" + all + "', expected a number of seconds >= 0");
  return value;
}

std::string Arguments::output(std::string const& option) const {
  std::string const name = text(option, "");
  if (name.empty() && m_values.count(option) == 0) return name;
  std::filesystem::path const path(name);
  std::error_code ignored;
  auto const folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  if (path.filename().empty() || std::filesystem::is_directory(path, ignored) ||
      !std::filesystem::is_directory(folder, ignored))
    throw UsageError(option + " is '" + name + "', expected a file in an existing folder");
  return name;
}

long whole_number(std::string const& what, std::string const& text, long lowest, long highest) {
  long value = 0;
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < lowest || value > highest)
    throw UsageError(what + " is '" + text + "', expected whole numbers from " + std::to_string(lowest) + " to " +
                     std::to_string(highest));
  return value;
}

} // namespace bench
