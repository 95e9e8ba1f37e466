// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#define CATCH_CONFIG_RUNNER // Catch2 2.13 is compiled here
#include <support/catch.hpp>

#include <algorithm>
#include <functional>
#include <string_view>

namespace kokomo::test {
/// In support/kokkos.cpp: this file need not read all of Kokkos too.
int run_with_kokkos(std::function<int()> const& run);
} // namespace kokomo::test

/// Kokkos starts only when tests run: ctest lists the cases on machines that lack the device.
int main(int argc, char** argv) {
  bool const lists =
      std::any_of(argv, argv + argc, [](std::string_view argument) { return argument.starts_with("--list"); });
  auto const run = [&] { return Catch::Session().run(argc, argv); };
  return lists ? run() : kokomo::test::run_with_kokkos(run);
}
