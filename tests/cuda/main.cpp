// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Every policy on Kokkos::Cuda, forward and backward, against the host. Where there is no GPU, that it compiles and
// links is the check.
#include <Kokkos_Core.hpp>

#include <cstdio>

int sigmoid_routers();
int softmax_routers();
int selected_routers();
int special_routers();
int scorers();
int balancers();
int token_routers();
int token_scorers();
int quantized_experts();
int decorators();
int batch_routers();
int zero_computation();

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  int const failed = sigmoid_routers() + softmax_routers() + selected_routers() + special_routers() + scorers() +
                     balancers() + token_routers() + token_scorers() + quantized_experts() + decorators() +
                     batch_routers() + zero_computation();
  std::printf("%d failed\n", failed);
  return failed == 0 ? 0 : 1;
}
