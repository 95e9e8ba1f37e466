// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_CUDA_COMPARE_HPP
#define KOKOMO_TESTS_CUDA_COMPARE_HPP

#include <cstddef>
#include <vector>

/// Between any memories of host and device: Kokkos::deep_copy of Views would compile kernels for each of their types.
void copy_bytes(void* to, void const* from, std::size_t bytes);

/// Prints one line; true if the worst ||device - host|| / ||host|| of all tensors is within the bound.
bool agree(char const* name, std::vector<std::vector<double>> const& device,
           std::vector<std::vector<double>> const& host, double bound);

#endif
