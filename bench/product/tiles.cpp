// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <product/tiles.hpp>
#include <support/machine.hpp>
#include <support/timing.hpp>

#include <kokomo/detail/host/product.hpp>
#include <kokomo/detail/launch.hpp>

#include <algorithm>

namespace bench {
namespace {

using namespace kokomo::detail::host;
using kokomo::offset_t;
using Exec = Kokkos::DefaultHostExecutionSpace;

/// Blocks of one worker: rows of the left operand, panels of the right one, sums.
struct Memory {
  static constexpr offset_t panels = 8;
  static constexpr offset_t left = deep_block_rows * left_pitch<float>;
  static constexpr offset_t panel = deep_block_depth<float> * max_panel_columns<float>;
  static constexpr offset_t size = left + panels * panel + deep_block_rows * block_columns<float>;
};

struct RunTiles {
  Microkernel<float> const* kernel;
  float* memory;
  bool from_l2;

  offset_t panels() const { return from_l2 ? Memory::panels : 1; }
  offset_t tiles() const { return from_l2 ? deep_block_rows / kernel->rows : 1; }
  offset_t repeated() const { return from_l2 ? 4 : 400; }
  /// Half of it alone leaves room in the L1 cache for the left operand.
  offset_t depth() const { return from_l2 ? deep_block_depth<float> : block_depth<float>; }
  double flops() const {
    return 2.0 * double(repeated() * panels() * tiles() * kernel->rows * kernel->columns * depth());
  }

  void operator()(offset_t worker) const {
    float* const left = memory + worker * Memory::size;
    float* const right = left + Memory::left;
    float* const sums = right + Memory::panels * Memory::panel;
    auto const function = kernel->tile[std::size_t(kernel->rows)];
    for (offset_t i = 0; i < repeated(); ++i)
      for (offset_t p = 0; p < panels(); ++p)
        for (offset_t tile = 0; tile < tiles(); ++tile)
          function(depth(), left + tile * kernel->rows * left_pitch<float>, right + p * Memory::panel, nullptr,
                   sums + tile * kernel->rows * block_columns<float> + p * kernel->columns, false, Prefetch{});
  }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

} // namespace

std::vector<TileRate> measure_tiles(double seconds) {
  Exec const exec;
  auto const workers = static_cast<offset_t>(exec.concurrency());
  Kokkos::View<float*, Kokkos::HostSpace> const memory("bench::tiles", std::size_t(workers * Memory::size));
  std::vector<TileRate> rates;
  for (bool const from_l2 : {false, true}) {
    RunTiles const run{&microkernel<float>(instruction_set()), memory.data(), from_l2};
    std::vector<double> gflops, shares;
    constexpr int rounds = 5;
    for (int round = 0; round < rounds; ++round) {
      double const limit = measure_limits(0).product_gflops("float32");
      auto const timing =
          time_calls(seconds / rounds, 3, [&] { kokomo::detail::for_each(exec, "bench::tiles", workers, run); });
      gflops.push_back(double(workers) * run.flops() / timing.median() / 1e6);
      shares.push_back(gflops.back() / limit);
    }
    rates.push_back({from_l2 ? "L2" : "L1", median(gflops), median(shares)});
  }
  return rates;
}

} // namespace bench
