// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_CMAKE_KOKKOS_4_7_0_CUDA13_HPP
#define KOKOMO_CMAKE_KOKKOS_4_7_0_CUDA13_HPP

/// Lets Kokkos 4.7.0 compile with CUDA 13, whose runtime changed two signatures that it calls (Kokkos 4.7.01 adapts).
/// Only the set-up of the CUDA compile check includes this, by -include; no kokomo header does.
#if defined(__CUDACC__)
#include <cuda_runtime_api.h>

#if CUDART_VERSION >= 13000
inline cudaError_t cudaGraphAddDependencies(cudaGraph_t graph, cudaGraphNode_t const* from, cudaGraphNode_t const* to,
                                            size_t count) {
  return cudaGraphAddDependencies(graph, from, to, nullptr, count);
}

inline cudaError_t cudaMemPrefetchAsync(void const* data, size_t bytes, int device, cudaStream_t stream) {
  cudaMemLocation location{};
  location.type = device == cudaCpuDeviceId ? cudaMemLocationTypeHost : cudaMemLocationTypeDevice;
  location.id = device == cudaCpuDeviceId ? 0 : device;
  return cudaMemPrefetchAsync(data, bytes, location, 0u, stream);
}
#endif
#endif

#endif
