// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_CHECKPOINT_LAYER_PROGRESS_HPP
#define KOKOMO_EXAMPLES_CHECKPOINT_LAYER_PROGRESS_HPP

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

/// Says on stderr what is being done, once that has taken more than a second: one line that is rewritten on a
/// terminal, elsewhere a line every few seconds.
class Progress {
public:
  Progress() = default;
  Progress(Progress const&) = delete;
  Progress& operator=(Progress const&) = delete;
  ~Progress() { clear(); }

  void operator()(std::string const& doing) {
    auto const now = Clock::now();
    if (now < m_next) return;
    m_next = now + (m_terminal ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000));
    std::fprintf(stderr, m_terminal ? "\r\033[K%.100s" : "%s\n", doing.c_str());
    std::fflush(stderr);
    m_shown = true;
  }

  /// Makes room for a line of the report.
  void clear() {
    if (m_shown && m_terminal) std::fputs("\r\033[K", stderr);
    m_shown = false;
  }

private:
  using Clock = std::chrono::steady_clock;
  bool m_terminal = ::isatty(STDERR_FILENO) == 1;
  bool m_shown = false;
  Clock::time_point m_next = Clock::now() + std::chrono::seconds(1);
};

#endif
