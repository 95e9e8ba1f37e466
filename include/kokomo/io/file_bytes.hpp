// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_FILE_BYTES_HPP
#define KOKOMO_IO_FILE_BYTES_HPP

#include <kokomo/error.hpp>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace kokomo::inline v0::detail {

/// Text from a file as it may stand in an error: at most `longest` bytes, without control characters.
inline std::string printable(std::string_view text, std::size_t longest = 120) {
  std::string shown(text.substr(0, longest));
  for (char& c : shown)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text.size() > longest ? shown + "..." : shown;
}

/// The bytes of a file, mapped read only, and the name that errors give it. Or bytes that somebody else keeps.
class FileBytes {
public:
  explicit FileBytes(std::filesystem::path const& path) : m_name(path.string()) {
    // Not blocking: a named pipe would wait for a writer here.
    int const descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) refuse(errno);
    struct stat facts {};
    int problem = ::fstat(descriptor, &facts) == 0 ? 0 : errno;
    bool const regular = problem == 0 && S_ISREG(facts.st_mode);
    if (regular && facts.st_size > 0) { // an empty range cannot be mapped
      void* const address = ::mmap(nullptr, std::size_t(facts.st_size), PROT_READ, MAP_PRIVATE, descriptor, 0);
      if (address == MAP_FAILED)
        problem = errno;
      else
        m_bytes = {static_cast<std::byte const*>(address), std::size_t(facts.st_size)};
    }
    ::close(descriptor);
    if (problem != 0) refuse(problem);
    require(regular, 401, m_name, " is not a regular file");
    m_mapped = true;
  }

  FileBytes(std::span<std::byte const> bytes, std::string name) : m_bytes(bytes), m_name(std::move(name)) {}

  FileBytes(FileBytes const&) = delete;
  FileBytes& operator=(FileBytes const&) = delete;

  ~FileBytes() {
    if (m_mapped && !m_bytes.empty()) ::munmap(const_cast<std::byte*>(m_bytes.data()), m_bytes.size());
  }

  std::span<std::byte const> bytes() const { return m_bytes; }
  std::string_view text() const { return {reinterpret_cast<char const*>(m_bytes.data()), m_bytes.size()}; }
  std::string const& name() const { return m_name; }

private:
  [[noreturn]] void refuse(int problem) const {
    fail(401, m_name, " cannot be read: ", std::generic_category().message(problem));
  }

  std::span<std::byte const> m_bytes;
  std::string m_name;
  bool m_mapped = false;
};

} // namespace kokomo::inline v0::detail

#endif
