// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "options.hpp"

#include <charconv>
#include <filesystem>
#include <limits>
#include <string_view>

char const* const help_text =
    R"(usage: checkpoint_layer DIR [options]

Runs the MoE blocks of a checkpoint folder as published: config.json, and model.safetensors or the shards of
model.safetensors.index.json. One block is in memory at a time.

  --check           feed layer.<l>.input of DIR/activations.safetensors and compare with layer.<l>.output:
                    ||out - ref|| / ||ref|| within 1e-5 in float32, 1e-2 in bfloat16
  --tokens N        without --check: tokens of a batch, drawn from a normal distribution (default 512)
  --seed N          without --check: seed of that draw (default 0)
  --layer N         this layer alone (default: every MoE block)
  --dtype T         float32 (default) or bfloat16: what weights and activations are stored in
  --plot FILE.svg   draw a heat map of the load by layer and expert
  --json FILE       write all numbers as JSON
  --help            this text

Exit status: 0; 1 if a check failed or there was nothing to check; 2 for bad input.
)";

namespace {

template <class N> N number(std::string_view option, std::string_view text, N lowest, N highest) {
  N value{};
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < lowest || value > highest)
    throw UsageError(std::string(option) + " is '" + std::string(text) + "', expected a whole number from " +
                     std::to_string(lowest) + " to " + std::to_string(highest));
  return value;
}

/// A file that can be expected to open for writing: found out before a long run, not after.
std::string output(std::string_view option, std::string_view text) {
  std::filesystem::path const path(text);
  std::error_code ignored;
  auto const folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  if (path.filename().empty() || std::filesystem::is_directory(path, ignored) ||
      !std::filesystem::is_directory(folder, ignored))
    throw UsageError(std::string(option) + " is '" + std::string(text) + "', expected a file in an existing folder");
  return path.string();
}

} // namespace

Options parse(int argc, char const* const* argv) {
  Options options;
  bool generates = false; // an option was given that only generated tokens have
  for (int i = 1; i < argc; ++i) {
    std::string_view const option = argv[i];
    auto const value = [&]() -> std::string_view {
      if (i + 1 == argc) throw UsageError(std::string(option) + " has no value, expected one behind it");
      return argv[++i];
    };
    if (option == "--help" || option == "-h")
      options.help = true;
    else if (option == "--check")
      options.check = true;
    else if (option == "--layer")
      options.layer = number(option, value(), 0, std::numeric_limits<int>::max());
    else if (option == "--tokens")
      options.tokens = number(option, value(), 1, 1 << 24), generates = true;
    else if (option == "--seed")
      options.seed = number<std::uint64_t>(option, value(), 0, std::numeric_limits<std::uint64_t>::max()),
      generates = true;
    else if (option == "--dtype") {
      auto const dtype = value();
      if (dtype != "float32" && dtype != "bfloat16")
        throw UsageError("--dtype is '" + std::string(dtype) + "', expected float32 or bfloat16");
      options.bfloat16 = dtype == "bfloat16";
    } else if (option == "--plot")
      options.plot = output(option, value());
    else if (option == "--json")
      options.json = output(option, value());
    else if (option.substr(0, 9) == "--kokkos-")
      continue;
    else if (option.substr(0, 1) == "-" || !options.folder.empty())
      throw UsageError("unexpected argument '" + std::string(option) + "', expected DIR and options (see --help)");
    else
      options.folder = option;
  }
  if (options.help) return options;
  if (options.folder.empty()) throw UsageError("no DIR given, expected a checkpoint folder (see --help)");
  if (options.check && generates)
    throw UsageError("--tokens and --seed are for generated tokens, expected none of them with --check");
  return options;
}
