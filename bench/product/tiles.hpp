// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BENCH_PRODUCT_TILES_HPP
#define KOKOMO_BENCH_PRODUCT_TILES_HPP

#include <string>
#include <vector>

namespace bench {

/// What the float32 microkernel reaches without a layer around it, on all threads.
struct TileRate {
  std::string where; ///< cache that its operands lie in: "L1" or "L2"
  double gflops;     ///< median of the rounds
  double share; ///< of the multiply-adds from registers measured in the same round, median: a bound for any product
};

/// Full tiles, in rounds that take turns with the measurement of multiply-adds from registers. `L1`: one tile over one
/// panel, again and again. `L2`: the tiles of a block of rows over several panels, as a product with packed weights goes
/// through them, but with nothing to fetch from memory.
std::vector<TileRate> measure_tiles(double seconds);

} // namespace bench

#endif
