// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#define CATCH_CONFIG_RUNNER // Catch2 2.13 is compiled here
#include <support/catch.hpp>

#include <Kokkos_Core.hpp>

#include <algorithm>
#include <cstdlib>
#include <string_view>

/// Kokkos starts only when tests run: ctest lists the cases on machines that lack the device.
int main(int argc, char** argv) {
  bool const lists =
      std::any_of(argv, argv + argc, [](std::string_view argument) { return argument.starts_with("--list"); });
  if (lists) return Catch::Session().run(argc, argv);

  Kokkos::InitializationSettings settings;
  // ctest starts several programs at once: two threads each show races without drowning the machine.
  if (!std::getenv("OMP_NUM_THREADS") && !std::getenv("KOKKOS_NUM_THREADS")) settings.set_num_threads(2);
  Kokkos::ScopeGuard const kokkos(settings);
  return Catch::Session().run(argc, argv);
}
