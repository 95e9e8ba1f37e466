// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>

namespace documented_test {

/// Errors in the headers, in the docs and in these tests are the same.

namespace {

namespace fs = std::filesystem;

fs::path const root = fs::path(KOKOMO_TEST_DATA).parent_path().parent_path();

std::string read(fs::path const& path) {
  std::ifstream file(path);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class F> void for_each_file(fs::path const& folder, std::string const& extension, F const& f) {
  for (auto const& entry : fs::recursive_directory_iterator(folder))
    if (entry.path().extension() == extension) f(read(entry.path()));
}

/// All matches of a pattern's first group, as numbers.
std::set<int> ids(std::string const& text, std::string const& pattern) {
  std::set<int> found;
  std::regex const regex(pattern);
  for (std::sregex_iterator match(text.begin(), text.end(), regex), end; match != end; ++match)
    found.insert(std::stoi((*match)[1]));
  return found;
}

/// Ids of the calls require(condition, id, ...) and fail(id, ...): the argument in that place, where it is a number.
std::set<int> thrown_in(std::string const& text) {
  std::set<int> found;
  std::regex const call("\\b(require|fail)\\("), number("\\s*([1-5][0-9][0-9])\\s*");
  for (std::sregex_iterator match(text.begin(), text.end(), call), end; match != end; ++match) {
    int depth = 0, argument = 0;
    std::string id;
    for (auto at = (*match)[0].second; at != text.end() && depth >= 0; ++at) {
      if (*at == ',' && depth == 0)
        ++argument;
      else if (argument == int((*match)[1] == "require"))
        id += *at;
      depth += (*at == '(' || *at == '{' || *at == '[') - (*at == ')' || *at == '}' || *at == ']');
      if (depth < 0 && !id.empty() && id.back() == *at) id.pop_back();
    }
    std::smatch parts;
    if (std::regex_match(id, parts, number)) found.insert(std::stoi(parts[1]));
  }
  return found;
}

std::set<int> between(std::set<int> const& ids, int first, int last) {
  return {ids.lower_bound(first), ids.upper_bound(last)};
}

} // namespace

TEST_CASE("every error is documented, and every documented error is thrown") {
  std::set<int> thrown, documented;
  for_each_file(root / "include", ".hpp", [&](std::string const& text) { thrown.merge(thrown_in(text)); });
  for_each_file(root / "docs" / "errors", ".md",
                [&](std::string const& text) { documented.merge(ids(text, "\n\\| ([0-9]{3}) \\|")); });
  REQUIRE(thrown.size() > 15);
  // file errors go through functions that add the name of the file; their own tests cover them
  REQUIRE(between(thrown, 100, 399) == between(documented, 100, 399));
  for (int id : thrown) {
    INFO(id);
    REQUIRE(documented.count(id) == 1);
  }
}

TEST_CASE("every error about settings, arguments and layouts has a test here") {
  std::set<int> thrown, tested;
  for_each_file(root / "include", ".hpp", [&](std::string const& text) { thrown.merge(thrown_in(text)); });
  for_each_file(root / "tests" / "errors", ".cpp", [&](std::string const& text) {
    tested.merge(ids(text, "(?:refuses<[^(]*>|expect_error|unchanged)\\(\\s*([0-9]{3})"));
  });
  REQUIRE(between(thrown, 100, 399) == between(tested, 100, 399));
}

TEST_CASE("every error that a docstring names exists") {
  std::set<int> thrown, named;
  for_each_file(root / "include", ".hpp", [&](std::string const& text) {
    thrown.merge(thrown_in(text));
    named.merge(ids(text, "Error ([1-3][0-9][0-9])"));
  });
  REQUIRE(std::includes(thrown.begin(), thrown.end(), named.begin(), named.end()));
}

} // namespace documented_test
