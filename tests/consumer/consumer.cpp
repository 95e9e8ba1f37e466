// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <kokomo/types.hpp>
#include <kokomo/version.hpp>

#include <cstdio>

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  using Exec = Kokkos::DefaultExecutionSpace;
  kokomo::OwnedMatrix<float, Exec> const x("consumer::x", 3, 4);
  Kokkos::deep_copy(x, 1.0f);
  float sum = 0;
  for (int token = 0; token < 3; ++token) {
    for (int column = 0; column < 4; ++column) {
      float value = 0;
      Kokkos::deep_copy(value, Kokkos::subview(x, token, column));
      sum += value;
    }
  }
  std::printf("kokomo %d.%d.%d: sum %g\n", KOKOMO_VERSION_MAJOR, KOKOMO_VERSION_MINOR, KOKOMO_VERSION_PATCH, sum);
  return sum == 12.0f ? 0 : 1;
}
