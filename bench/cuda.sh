#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# On a machine with a GPU: builds, compares everything with the host, and times layers. Stops at the first wrong result.
#
#   bench/cuda.sh [FOLDER]    what it prints also goes to FOLDER (default build/cuda-results)
#
# Settings: KOKOMO_CUDA_ARCH, the device's architecture without the point (default 90), KOKOMO_JOBS.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source cmake/setup.sh

results=${1:-build/cuda-results}
mkdir -p "$results"
nvidia-smi --query-gpu=name,compute_cap,driver_version --format=csv | tee "$results/device.txt"

setup_kokkos_cuda
export KOKOMO_CUDA_ARCH=${KOKOMO_CUDA_ARCH:-90}
build=build/cuda-$KOKOMO_CUDA_ARCH
cmake --preset cuda-compile-only -B "$build" "-DKokkos_DIR=$Kokkos_DIR" -DCMAKE_BUILD_TYPE=Release \
  "-DCMAKE_CUDA_ARCHITECTURES=$KOKOMO_CUDA_ARCH" -DKOKOMO_CUDA_COMPILE_ONLY=OFF -DKOKOMO_CUDA_ALONE=ON \
  -DKOKOMO_BUILD_BENCHMARKS=ON >"$results/configure.txt"
cmake --build "$build" --target test_cuda cuda_bench

say "every composition on the device, against the host"
"$build/tests/cuda/test_cuda" | tee "$results/test_cuda.txt"
say "times"
timeout 240 "$build/bench/cuda_bench" | tee "$results/bench.txt"
if have compute-sanitizer; then
  say "memcheck"
  timeout 180 compute-sanitizer --tool memcheck --error-exitcode 1 "$build/tests/cuda/test_cuda" >"$results/memcheck.txt" ||
    { tail -n 20 "$results/memcheck.txt"; exit 1; }
fi
