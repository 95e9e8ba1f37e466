// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_DISCIPLINE_WATCH_HPP
#define KOKOMO_TESTS_DISCIPLINE_WATCH_HPP

#include <Kokkos_Core.hpp>

#include <string>
#include <vector>

namespace discipline {

/// What Kokkos has been seen to do.
struct Record {
  struct Kernel {
    std::string label;
    std::uint32_t instance; ///< as Kokkos::Tools::Experimental::device_id says it
  };
  std::vector<Kernel> kernels;
  std::vector<std::string> allocations, fences, copies, regions;
};

/// Fills a Record through the callbacks of Kokkos Tools for as long as it lives. One at a time.
class Watch {
public:
  explicit Watch(Record& record) {
    using namespace Kokkos::Tools::Experimental;
    seen() = &record;
    set_begin_parallel_for_callback(kernel);
    set_begin_parallel_reduce_callback(kernel);
    set_begin_parallel_scan_callback(kernel);
    set_allocate_data_callback(memory);
    set_deallocate_data_callback(memory);
    set_begin_fence_callback(fence);
    set_begin_deep_copy_callback(copy);
    set_push_region_callback(region);
  }
  ~Watch() { Kokkos::Tools::Experimental::set_callbacks(m_before); }
  Watch(Watch const&) = delete;
  Watch& operator=(Watch const&) = delete;

private:
  using Space = Kokkos::Tools::SpaceHandle;

  static Record*& seen() {
    static Record* record = nullptr;
    return record;
  }
  static void kernel(char const* label, std::uint32_t instance, std::uint64_t*) {
    seen()->kernels.push_back({label, instance});
  }
  static void memory(Space, char const* label, void const*, std::uint64_t) { seen()->allocations.push_back(label); }
  static void fence(char const* label, std::uint32_t, std::uint64_t*) {
    // what Kokkos does around every kernel because somebody watches
    if (std::string(label).find("Kokkos Profile Tool Fence") == std::string::npos) seen()->fences.push_back(label);
  }
  static void copy(Space, char const* to, void const*, Space, char const*, void const*, std::uint64_t) {
    seen()->copies.push_back(to);
  }
  static void region(char const* name) { seen()->regions.push_back(name); }

  Kokkos::Tools::Experimental::EventSet const m_before = Kokkos::Tools::Experimental::get_callbacks();
};

} // namespace discipline

#endif
