// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BENCH_SUPPORT_MACHINE_HPP
#define KOKOMO_BENCH_SUPPORT_MACHINE_HPP

#include <support/json.hpp>

#include <map>
#include <string>

namespace bench {

/// What the machine can do at most, on all threads of the host execution space.
struct Limits {
  std::map<std::string, double> gflops; ///< multiply-adds from registers, by instruction set; two operations each
  double bandwidth = 0;                 ///< GB/s read from an array that no cache holds

  /// What a product in this storage type cannot exceed: float32 instructions, or those that multiply bfloat16 itself.
  double product_gflops(std::string const& dtype) const;
  Json json() const;
};

/// Measures them, in about two seconds: each is the best of several runs. Kokkos must be initialised.
/// \param stream_mib size of the array that is read, in MiB; 0: bandwidth is not measured
/// \throws std::runtime_error if the read loop did not see every element
Limits measure_limits(long stream_mib);

} // namespace bench

#endif
