// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_DISCIPLINE_BUSY_HPP
#define KOKOMO_TESTS_DISCIPLINE_BUSY_HPP

#include <Kokkos_Core.hpp>

#include <atomic>
#include <chrono>
#include <thread>

namespace discipline {

/// Keeps the default instance of a host execution space busy for as long as it lives, but no longer than `patience`.
/// Kernels of one instance take turns: what is launched on the default one, instead of the caller's, waits for this one
/// to lose patience. (Kokkos Tools gives all instances of OpenMP the same id.)
template <class Exec> class Busy {
public:
  explicit Busy(std::chrono::milliseconds patience)
      : m_thread([this, patience] {
          Kokkos::parallel_for("tests::Busy", Kokkos::RangePolicy<Exec>(0, 1), Spin{this, patience});
        }) {
    while (!m_started) std::this_thread::yield();
  }
  ~Busy() { stop(); }
  Busy(Busy const&) = delete;
  Busy& operator=(Busy const&) = delete;

  /// Whether it was busy all the time until now.
  bool stop() {
    m_stop = true;
    if (m_thread.joinable()) m_thread.join();
    return !m_expired;
  }

private:
  struct Spin {
    Busy* busy;
    std::chrono::milliseconds patience;
    void operator()(int) const {
      busy->m_started = true;
      auto const end = std::chrono::steady_clock::now() + patience;
      while (!busy->m_stop && !busy->m_expired) {
        std::this_thread::yield();
        if (std::chrono::steady_clock::now() > end) busy->m_expired = true;
      }
    }
  };

  std::atomic<bool> m_started{false}, m_stop{false}, m_expired{false};
  std::thread m_thread;
};

} // namespace discipline

#endif
