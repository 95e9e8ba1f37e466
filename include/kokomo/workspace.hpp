// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_WORKSPACE_HPP
#define KOKOMO_WORKSPACE_HPP

#include <kokomo/detail/arena.hpp>
#include <kokomo/detail/host/memory.hpp>
#include <kokomo/error.hpp>
#include <kokomo/types.hpp>

#include <algorithm>
#include <cstddef>
#include <string>

namespace kokomo::inline v0 {

/// What a layer needs beside parameters and state, computed on the host alone. Plans of several layers that take turns
/// share one workspace of the larger size: `plan.max(other)`.
struct Plan {
  std::size_t workspace_bytes = 0; ///< within one call; free to reuse when the call's work is done
  std::size_t tape_bytes = 0;      ///< from forward to backward
  int workers = 0;                 ///< host threads that the workspace has room for

  Plan max(Plan const& other) const {
    return {std::max(workspace_bytes, other.workspace_bytes), std::max(tape_bytes, other.tape_bytes),
            std::max(workers, other.workers)};
  }
};

namespace detail {

/// Memory of the caller or of its own, aligned for an Arena.
template <class Exec> class Block {
public:
  Block() = default;
  Block(Exec const& exec, char const* label, std::size_t bytes)
      : m_memory(Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, std::string(label)), bytes) {
    if constexpr (runs_on_host_v<Exec>) host::advise_large_pages(m_memory.data(), bytes);
  }
  Block(char const* name, std::byte* memory, std::size_t bytes) : m_memory(memory, bytes) {
    auto const address = reinterpret_cast<std::uintptr_t>(memory);
    require(address % Arena::alignment == 0, 206, name, " memory is at address ", address, ", expected a multiple of ",
            Arena::alignment);
  }

  std::byte* data() const { return m_memory.data(); }
  std::size_t bytes() const { return m_memory.size(); }

private:
  Kokkos::View<std::byte*, typename Exec::memory_space> m_memory;
};

} // namespace detail

/// Scratch memory of forward and backward. Layers may share one, in turns on one execution space instance.
template <class Exec> class Workspace {
public:
  Workspace() = default;
  /// The only allocation: asynchronous on `exec`.
  Workspace(Exec const& exec, Plan const& plan)
      : m_block(exec, "kokomo::Workspace", plan.workspace_bytes), m_workers(plan.workers) {}
  /// Uses the caller's memory. \throws kokomo::Error 206 unless it is aligned to 64 bytes
  Workspace(std::byte* memory, std::size_t bytes, int workers)
      : m_block("workspace", memory, bytes), m_workers(workers) {}

  std::byte* data() const { return m_block.data(); }
  std::size_t bytes() const { return m_block.bytes(); }
  int workers() const { return m_workers; }

private:
  detail::Block<Exec> m_block;
  int m_workers = 0;
};

/// What forward saves for backward, step and status; one for each forward whose backward is still to come.
template <class Exec> class Tape {
public:
  Tape() = default;
  /// The only allocation: asynchronous on `exec`.
  Tape(Exec const& exec, Plan const& plan) : m_block(exec, "kokomo::Tape", plan.tape_bytes) {}
  /// Uses the caller's memory. \throws kokomo::Error 206 unless it is aligned to 64 bytes
  Tape(std::byte* memory, std::size_t bytes) : m_block("tape", memory, bytes) {}

  std::byte* data() const { return m_block.data(); }
  std::size_t bytes() const { return m_block.bytes(); }
  /// Tokens of the forward pass that it holds; -1 before the first.
  offset_t tokens() const { return m_tokens; }
  void record(offset_t tokens, Mode mode, std::uint64_t step) {
    m_tokens = tokens;
    m_mode = mode;
    m_step = step;
  }
  Mode mode() const { return m_mode; }
  std::uint64_t step() const { return m_step; }

private:
  detail::Block<Exec> m_block;
  offset_t m_tokens = -1;
  Mode m_mode = Mode::inference;
  std::uint64_t m_step = 0;
};

} // namespace kokomo::inline v0

#endif
