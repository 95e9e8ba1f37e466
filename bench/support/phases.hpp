// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BENCH_SUPPORT_PHASES_HPP
#define KOKOMO_BENCH_SUPPORT_PHASES_HPP

#include <Kokkos_Core.hpp>

#include <chrono>
#include <map>
#include <string>

namespace bench {

/// Sums up the time of every kernel by its label, through the callbacks of Kokkos Tools, for as long as it lives. One at
/// a time, and for host execution spaces, whose kernels have ended when they return.
class Phases {
public:
  Phases() {
    using namespace Kokkos::Tools::Experimental;
    current() = this;
    set_begin_parallel_for_callback(begin);
    set_begin_parallel_reduce_callback(begin);
    set_begin_parallel_scan_callback(begin);
    set_end_parallel_for_callback(end);
    set_end_parallel_reduce_callback(end);
    set_end_parallel_scan_callback(end);
  }
  ~Phases() { Kokkos::Tools::Experimental::set_callbacks(m_before); }
  Phases(Phases const&) = delete;
  Phases& operator=(Phases const&) = delete;

  /// Milliseconds by label, of all calls together.
  std::map<std::string, double> const& ms() const { return m_ms; }
  void clear() { m_ms.clear(); }

private:
  using Clock = std::chrono::steady_clock;

  static Phases*& current() {
    static Phases* phases = nullptr;
    return phases;
  }
  static void begin(char const* label, std::uint32_t, std::uint64_t*) {
    current()->m_label = label;
    current()->m_start = Clock::now();
  }
  static void end(std::uint64_t) {
    Phases& phases = *current();
    phases.m_ms[phases.m_label] += std::chrono::duration<double, std::milli>(Clock::now() - phases.m_start).count();
  }

  Kokkos::Tools::Experimental::EventSet const m_before = Kokkos::Tools::Experimental::get_callbacks();
  std::string m_label;
  Clock::time_point m_start;
  std::map<std::string, double> m_ms;
};

} // namespace bench

#endif
