// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_CHECKPOINT_LAYER_OPTIONS_HPP
#define KOKOMO_EXAMPLES_CHECKPOINT_LAYER_OPTIONS_HPP

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

/// What the command line asks for.
struct Options {
  std::string folder;
  std::optional<int> layer;
  bool bfloat16 = false;
  int tokens = 512;
  std::uint64_t seed = 0;
  bool check = false;
  std::string plot, json; ///< files to write; empty: none
  bool help = false;
};

/// A request that cannot be met. The text names what was wrong and what was expected.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Arguments that begin with --kokkos- are left to Kokkos.
/// \throws UsageError
Options parse(int argc, char const* const* argv);

extern char const* const help_text;

#endif
