// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <kokomo/types.hpp>

#include <cstdio>

#if !defined(KOKKOS_ENABLE_CUDA)
#error "tests/cuda is for a Kokkos with CUDA"
#endif

namespace {

struct Fill {
  kokomo::Matrix<kokomo::bfloat16, Kokkos::Cuda> out;

  KOKKOS_FUNCTION void operator()(int row) const {
    for (int column = 0; column < out.extent_int(1); ++column) {
      out(row, column) = kokomo::bfloat16(float(row + column));
    }
  }
};

} // namespace

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  Kokkos::Cuda const exec;
  kokomo::OwnedMatrix<kokomo::bfloat16, Kokkos::Cuda> const x("x", 3, 4);
  Kokkos::parallel_for("kokomo::tests::fill", Kokkos::RangePolicy<Kokkos::Cuda>(exec, 0, 3), Fill{x});
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), x);
  bool const right = float(host(2, 3)) == 5.0f;
  std::puts(right ? "passed" : "failed");
  return right ? 0 : 1;
}
