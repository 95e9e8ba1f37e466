// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/guarded.hpp>

#include <cstdint>

namespace kokomo::test {

void poison_numbers(void* data, std::size_t bytes) {
  std::vector<std::uint32_t> words(bytes / 4 + 1);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = 0x7ff87ff8u + std::uint32_t(i % 7);
  copy_to_device(words.data(), data, bytes);
}

Guarded::Guarded(std::size_t bytes) : m_memory("guarded", bytes + 2 * guard), m_bytes(bytes) {
  copy_to_device(std::vector<unsigned char>(m_memory.size(), 0xa5).data(), m_memory.data(), m_memory.size());
  poison_numbers(data(), bytes);
}

bool Guarded::intact() const {
  auto const host = to_host(m_memory);
  for (std::size_t i = 0; i < guard; ++i)
    if (host[i] != 0xa5 || host[guard + m_bytes + i] != 0xa5) return false;
  return true;
}

} // namespace kokomo::test
