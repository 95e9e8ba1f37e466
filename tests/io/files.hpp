// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_IO_FILES_HPP
#define KOKOMO_TESTS_IO_FILES_HPP

#include <io/check_error.hpp>
#include <support/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// A folder that lives as long as this object.
struct TemporaryFolder {
  std::filesystem::path path;

  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "kokomo_io_XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  TemporaryFolder(TemporaryFolder const&) = delete;
  TemporaryFolder& operator=(TemporaryFolder const&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path); }

  std::filesystem::path write(std::filesystem::path const& name, std::string_view bytes) const {
    std::filesystem::create_directories((path / name).parent_path());
    std::ofstream(path / name, std::ios::binary) << bytes;
    return path / name;
  }
};

/// The 8 bytes of a header's length.
inline std::string little_endian(std::uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += char(value >> (8 * i) & 0xff);
  return bytes;
}

/// A safetensors file with that header and those data.
inline std::string file_of(std::string const& header, std::string const& data = {}) {
  return little_endian(header.size()) + header + data;
}

inline std::span<std::byte const> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

#endif
