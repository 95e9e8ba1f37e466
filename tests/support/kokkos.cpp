// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <Kokkos_Core.hpp>

#include <cstdlib>
#include <functional>

namespace kokomo::test {

int run_with_kokkos(std::function<int()> const& run) {
  Kokkos::InitializationSettings settings;
  // ctest starts several programs at once: two threads each show races without drowning the machine.
  if (!std::getenv("OMP_NUM_THREADS") && !std::getenv("KOKKOS_NUM_THREADS")) settings.set_num_threads(2);
  Kokkos::ScopeGuard const kokkos(settings);
  return run();
}

} // namespace kokomo::test
