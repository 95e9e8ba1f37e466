// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Any bytes are an index, and a config.json, or an error; no shard of an index lies outside of its folder. Built as
// safetensors_fuzz.cpp is: fuzz_checkpoint and replay_checkpoint.
#include <kokomo/io/checkpoint.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace {

template <class Action> void expect_only(int lowest, int highest, Action&& action) {
  try {
    action();
  } catch (kokomo::Error const& error) {
    if (error.id() < lowest || error.id() > highest) std::abort();
  }
}

void read_index(std::span<std::byte const> bytes) {
  kokomo::detail::FileBytes const index(bytes, "index");
  for (auto const& [tensor, shard] : kokomo::detail::read_weight_map(index)) {
    auto const path = (std::filesystem::path("/folder") / shard).lexically_normal().string();
    if (!path.starts_with("/folder/")) std::abort();
  }
}

void read_config(std::string_view text) {
  auto const config = kokomo::io::Config::parse(text, "config");
  for (auto const& item : config.json().items()) {
    std::string const& key = item.key();
    expect_only(431, 433, [&] { config.integer(key); });
    expect_only(431, 433, [&] { config.size_or(key, 1); });
    expect_only(431, 433, [&] { config.number(key); });
    expect_only(431, 433, [&] { config.boolean(key); });
    expect_only(431, 433, [&] { config.string(key); });
    expect_only(431, 433, [&] { config.integers_or_none(key); });
    expect_only(431, 433, [&] { config.strings_or_none(key); });
    expect_only(431, 433, [&] { config.object(key); });
  }
  expect_only(431, 433, [&] { config.text(); });
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  auto const bytes = std::as_bytes(std::span(data, size));
  expect_only(403, 424, [&] { read_index(bytes); });
  expect_only(403, 432, [&] { read_config({reinterpret_cast<char const*>(data), size}); });
  return 0;
}
