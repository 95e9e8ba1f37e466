// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_SIMULATED_EXEC_HPP
#define KOKOMO_TESTS_SUPPORT_SIMULATED_EXEC_HPP

#include <support/simulated_machine.hpp>

#include <kokomo/detail/cuda/feed_forward.hpp>
#include <kokomo/detail/launch.hpp>

#include <string>
#include <vector>

namespace kokomo::test {

/// In place of Kokkos::Cuda for experts that compute on tensor cores: what they launch is simulated at once.
struct SimulatedExec {
  using memory_space = Kokkos::HostSpace;
  std::vector<std::string>* launched = nullptr; ///< labels of kernels, in order
  int concurrency() const { return 1; }
};

inline void launch(SimulatedExec const&, std::string const&, detail::HostLoop const& loop) {
  for (offset_t share = 0; share < loop.shares; ++share) loop(share);
}

template <class Kernel>
requires requires {
  typename Kernel::Shape;
}
void launch(SimulatedExec const& exec, std::string const& label, Kernel const& kernel) {
  if (exec.launched != nullptr) exec.launched->push_back(label);
  run_simulated(kernel, Copies::at_the_wait);
}

} // namespace kokomo::test

namespace kokomo::inline v0::detail::cuda {
template <> inline constexpr bool has_tensor_cores_v<bfloat16, kokomo::test::SimulatedExec> = true;
template <> inline constexpr bool has_tensor_cores_v<float16, kokomo::test::SimulatedExec> = true;
} // namespace kokomo::inline v0::detail::cuda

#endif
