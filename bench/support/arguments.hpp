// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BENCH_SUPPORT_ARGUMENTS_HPP
#define KOKOMO_BENCH_SUPPORT_ARGUMENTS_HPP

#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench {

/// A request that cannot be met. The text names what was wrong and what was expected.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The command line of a benchmark: options with a value, and flags. Arguments that begin with --kokkos- are Kokkos's.
class Arguments {
public:
  /// \throws UsageError for an unknown option, or one without its value
  Arguments(int argc, char const* const* argv, std::set<std::string> const& valued, std::set<std::string> const& flags);

  bool has(std::string const& flag) const { return m_flags.count(flag) > 0; }
  /// The value of an option, or `otherwise`.
  std::string text(std::string const& option, std::string const& otherwise) const;
  /// A list with commas between its items, each one of `known` unless that is empty; "all" stands for all known.
  std::vector<std::string> list(std::string const& option, std::string const& otherwise,
                                std::vector<std::string> const& known = {}) const;
  std::vector<long> numbers(std::string const& option, std::string const& otherwise, long lowest, long highest) const;
  double seconds(std::string const& option, double otherwise) const;
  /// A file that can be expected to open for writing: found out before a long run, not after. Empty: not asked for.
  std::string output(std::string const& option) const;

private:
  std::map<std::string, std::string> m_values;
  std::set<std::string> m_flags;
};

/// \throws UsageError unless `text` is a whole number within the bounds
long whole_number(std::string const& what, std::string const& text, long lowest, long highest);

} // namespace bench

#endif
