// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_SIMULATED_MACHINE_HPP
#define KOKOMO_TESTS_SUPPORT_SIMULATED_MACHINE_HPP

#include <kokomo/detail/cuda/sources.hpp>

#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

namespace kokomo::test {

/// When an asynchronous copy takes place: a GPU may do it at any time between these two.
enum class Copies { at_once, at_the_wait };

/// The machine of detail/cuda/tile_product.hpp on a host: a block of threads, each of whose steps is executed, with the
/// semantics that the PTX ISA gives to cp.async, ldmatrix and mma.sync. Shared memory begins as NaN. Warps run one after
/// the other between barriers, so with copies at once a stage that is overwritten too early, and with copies at the wait
/// one that is read too early, spoils the result.
class SimulatedMachine {
public:
  template <class X> struct Lanes {
    std::array<X, 32> values;
    X& operator[](int lane) { return values[std::size_t(lane)]; }
  };
  template <class X> struct Warps {
    std::vector<X> values;
    explicit Warps(SimulatedMachine const& m) : values(m.m_queues.size()) {}
    X& operator[](int warp) { return values[std::size_t(warp)]; }
  };

  SimulatedMachine(int warps, int shared_bytes, Copies copies)
      : m_shared(std::size_t(shared_bytes), 0xff), m_queues(std::size_t(warps)), m_copies(copies) {}

  template <class F> void phase(F const& f) {
    for (m_warp = 0; m_warp < int(m_queues.size()); ++m_warp) f(m_warp);
  }
  template <class F> void lanes(F const& f) {
    for (int lane = 0; lane < 32; ++lane) f(lane);
  }

  void copy_async(int to, void const* from, int bytes) {
    if (to % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0 || bytes < 0 || bytes > 16) ++bad_copies;
    if (m_copies == Copies::at_once)
      copy({to, from, bytes});
    else
      queue().open.push_back({to, from, bytes});
  }
  void commit() {
    queue().groups.push_back(queue().open);
    queue().open.clear();
  }
  template <int groups> void wait() {
    auto& waiting = queue().groups;
    while (waiting.size() > std::size_t(groups)) {
      for (Copy const& each : waiting.front()) copy(each);
      waiting.erase(waiting.begin());
    }
  }
  template <class T> void store(int to, detail::cuda::Elements<T> const& elements) {
    std::memcpy(&m_shared.at(std::size_t(to)), &elements, 16);
  }

  /// Matrix i of 8 x 8 elements has the lines whose addresses lanes 8 i to 8 i + 7 give. Lane l gets elements 2 (l % 4)
  /// and the next of line l / 4; transposed, the elements l / 4 of lines 2 (l % 4) and the next.
  template <bool transposed, class F>
  void load_matrices(Lanes<detail::cuda::Quad<std::uint32_t>>& to, F const& line_of_lane) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      std::uint16_t elements[8][8];
      unsigned banks = 0;
      for (int line = 0; line < 8; ++line) {
        int const at = line_of_lane(8 * matrix + line);
        std::memcpy(elements[line], &m_shared.at(std::size_t(at)), 16);
        banks |= 1u << (at / 16 % 8);
      }
      if (banks != 0xff) ++bank_conflicts;
      for (int lane = 0; lane < 32; ++lane) {
        int const line = lane / 4, pair = lane % 4 * 2;
        std::uint32_t const low = transposed ? elements[pair][line] : elements[line][pair];
        std::uint32_t const high = transposed ? elements[pair + 1][line] : elements[line][pair + 1];
        to[lane].v[matrix] = low | high << 16;
      }
    }
  }

  /// mma.m16n8k16: with g = lane / 4 and t = lane % 4, element i of the left fragment (two to a register) is of row
  /// g or, for i = 2, 3, 6, 7, g + 8 and column 2 t + i % 2 or, from i = 4 on, 8 more; element i of the right one of row
  /// 2 t + i % 2, from i = 2 on 8 more, and column g; sum i of row g, or from i = 2 on g + 8, and column 2 t + i % 2.
  template <class T>
  void multiply(Lanes<detail::cuda::Quad<float>>& sums, Lanes<detail::cuda::Quad<std::uint32_t>>& a,
                Lanes<detail::cuda::Quad<std::uint32_t>>& b, int half) {
    float left[16][16], right[16][8];
    auto const element = [](std::uint32_t const* registers, int i) {
      return float(T::from_bits(std::uint16_t(registers[i / 2] >> (i % 2 * 16))));
    };
    for (int lane = 0; lane < 32; ++lane) {
      int const g = lane / 4, t = lane % 4;
      for (int i = 0; i < 8; ++i)
        left[i % 4 >= 2 ? g + 8 : g][2 * t + i % 2 + (i >= 4 ? 8 : 0)] = element(a[lane].v, i);
      for (int i = 0; i < 4; ++i) right[2 * t + i % 2 + (i >= 2 ? 8 : 0)][g] = element(b[lane].v + half, i);
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        int const row = lane / 4 + (i >= 2 ? 8 : 0), column = 2 * (lane % 4) + i % 2;
        for (int k = 0; k < 16; ++k) sums[lane].v[i] += left[row][k] * right[k][column];
      }
  }

  void quad_sum(Lanes<float>& v) { sum_over(v, 4); }
  void warp_sum(Lanes<float>& v) { sum_over(v, 32); }

  int bank_conflicts = 0, bad_copies = 0;

private:
  struct Copy {
    int to;
    void const* from;
    int bytes;
  };
  struct Queue {
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
  };

  Queue& queue() { return m_queues[std::size_t(m_warp)]; }
  void copy(Copy const& each) {
    std::memset(&m_shared.at(std::size_t(each.to)), 0, 16);
    if (each.bytes > 0) std::memcpy(&m_shared.at(std::size_t(each.to)), each.from, std::size_t(each.bytes));
  }
  static void sum_over(Lanes<float>& v, int width) {
    for (int apart = width / 2; apart > 0; apart /= 2) {
      auto const before = v;
      for (int lane = 0; lane < 32; ++lane) v[lane] += before.values[std::size_t(lane ^ apart)];
    }
  }

  std::vector<unsigned char> m_shared;
  std::vector<Queue> m_queues;
  Copies m_copies;
  int m_warp = 0;
};

/// Counts what must not happen while all blocks of a kernel run, one after the other, with each kind of copies.
template <class Kernel> int run_simulated(Kernel const& kernel, Copies copies) {
  int faults = 0;
  for (offset_t block = 0; block < kernel.blocks(); ++block) {
    SimulatedMachine machine(Kernel::Shape::warps, Kernel::Shape::shared_bytes, copies);
    kernel(machine, block);
    faults += machine.bank_conflicts + machine.bad_copies;
  }
  return faults;
}

} // namespace kokomo::test

#endif
