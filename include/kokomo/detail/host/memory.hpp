// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_MEMORY_HPP
#define KOKOMO_DETAIL_HOST_MEMORY_HPP

#include <kokomo/detail/launch.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace kokomo::inline v0::detail::host {

/// Asks the operating system for large pages of memory that nobody has touched yet. Weights are read as streams of many
/// megabytes, and looking up the address of every 4 KiB of them takes time that reading could have. Only a wish: where
/// it is not granted, nothing changes.
inline void advise_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::size_t page = 4096, worthwhile = 4 << 20;
  if (bytes < worthwhile) return;
  std::size_t const skipped = (page - reinterpret_cast<std::uintptr_t>(memory) % page) % page;
  (void)madvise(static_cast<std::byte*>(memory) + skipped, (bytes - skipped) / page * page, MADV_HUGEPAGE);
#endif
}

struct ZeroBlock {
  static constexpr offset_t size = 1 << 16;
  std::byte* data;
  offset_t bytes;

  void operator()(offset_t block) const {
    std::memset(data + block * size, 0, std::size_t(std::min(size, bytes - block * size)));
  }
};

/// Sets fresh memory to zero, each part by the thread that a loop of equal shares would give it to.
template <class Exec> void zero(Exec const& exec, void* memory, std::size_t bytes) {
  auto const count = static_cast<offset_t>(bytes);
  for_each(exec, "kokomo::Allocator::zero", (count + ZeroBlock::size - 1) / ZeroBlock::size,
           ZeroBlock{static_cast<std::byte*>(memory), count});
}

} // namespace kokomo::inline v0::detail::host

#endif
