// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Every policy on Kokkos::Cuda, forward and backward, against the host. Where there is no GPU, that it compiles and
// links is the check.
#include "compare.hpp"

#include <Kokkos_Core.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

void copy_bytes(void* to, void const* from, std::size_t bytes) {
  Kokkos::fence("tests/cuda: what is copied is complete");
  if (cudaMemcpy(to, from, bytes, cudaMemcpyDefault) != cudaSuccess) throw std::runtime_error("cudaMemcpy failed");
}

bool agree(char const* name, std::vector<std::vector<double>> const& device,
           std::vector<std::vector<double>> const& host, double bound) {
  double worst = 0;
  for (std::size_t i = 0; i < host.size(); ++i) {
    double error = 0, scale = 0;
    for (std::size_t j = 0; j < host[i].size(); ++j) {
      error += (device[i][j] - host[i][j]) * (device[i][j] - host[i][j]);
      scale += host[i][j] * host[i][j];
    }
    double const relative = scale > 0 ? std::sqrt(error / scale) : std::sqrt(error);
    worst = relative <= worst ? worst : relative; // NaN stays
  }
  bool const agrees = worst <= bound;
  std::printf("%-32s %s %.2e\n", name, agrees ? "ok  " : "FAIL", worst);
  return agrees;
}

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
int transforms();
int expert_selection();
int mixed_experts();
int placement();
int task_routers();

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  int const failed = sigmoid_routers() + softmax_routers() + selected_routers() + special_routers() + scorers() +
                     balancers() + token_routers() + token_scorers() + quantized_experts() + decorators() +
                     batch_routers() + zero_computation() + transforms() + expert_selection() + mixed_experts() +
                     placement() + task_routers();
  std::printf("%d failed\n", failed);
  return failed == 0 ? 0 : 1;
}
