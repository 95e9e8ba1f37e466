// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <product/tiles.hpp>
#include <support/arguments.hpp>
#include <support/json.hpp>
#include <support/loads.hpp>
#include <support/machine.hpp>
#include <support/random.hpp>
#include <support/timing.hpp>

#include <kokomo/detail/product.hpp>

#include <cstdio>
#include <fstream>
#include <numeric>

namespace {

using namespace bench;
using Exec = Kokkos::DefaultHostExecutionSpace;

char const* const help_text =
    R"(usage: product_bench [options]

Times the grouped product alone, rows times weights [1024 x 2048] of their expert, and the grouped outer product that
gives the gradient of such weights: for equal numbers of rows an expert, then for 4096 rows over 64 experts by load. And
the float32 microkernel alone, with operands in a cache: what no product on this machine exceeds.

  --rows LIST       rows an expert (default 1,2,4,8,16,64,256,1024,4096)
  --loads LIST      of random, balanced, hot, zipf (default: all)
  --dtypes LIST     of float32, bfloat16 (default: both): the weights' and the left operand's type
  --kinds LIST      of product, outer, tile (default: all)
  --budget SECONDS  for each row (default 0.5)
  --stream-mib N    size of the array that bandwidth is measured on (default 1024)
  --json FILE       write all of it as JSON
  --help            this text

A list has commas between its items; "all" stands for all that there are. Exit status: 0; 2 for bad arguments.
)";

constexpr long columns = 1024, depth = 2048;

/// Rows by expert, and what they are called.
struct Groups {
  std::string load;
  std::vector<long> rows;
  long total() const { return std::accumulate(rows.begin(), rows.end(), 0l); }
};

Groups equal_groups(long rows) {
  return {"equal", std::vector<long>(rows > 256 ? 4 : 16, rows)};
}

Groups skewed_groups(std::string const& load) {
  Dimensions const shape{"", depth, columns, 64, 8};
  Groups groups{load, std::vector<long>(64, 0)};
  long const tokens = 512;
  auto wanted = wanted_experts(load, shape, tokens, 0);
  if (wanted.empty()) // what a router with random weights would do: each expert has the same chance at every token
    for (std::uint32_t i = 0; i < std::uint32_t(tokens * shape.k); ++i)
      wanted.push_back(std::min(63, static_cast<int>((uniform(1, i) + 1) * 32)));
  for (int const expert : wanted) ++groups.rows[std::size_t(expert)];
  return groups;
}

template <class T> Timing measure(std::string const& kind, Groups const& groups, double seconds) {
  using namespace kokomo::detail;
  Exec const exec;
  auto const count = groups.rows.size();
  auto const rows = std::size_t(groups.total());
  Kokkos::View<kokomo::offset_t*, Kokkos::HostSpace> const offsets("bench::offsets", count + 1);
  std::partial_sum(groups.rows.begin(), groups.rows.end(), offsets.data() + 1);
  Kokkos::View<T*, Kokkos::HostSpace> const weights("bench::weights", count * columns * depth),
      left("bench::left", rows * depth);
  Kokkos::View<float*, Kokkos::HostSpace> const out("bench::out", rows * columns);
  Kokkos::View<std::byte*, Kokkos::HostSpace> const memory(
      "bench::scratch", std::size_t(product_scratch_bytes<float, Exec>() * product_workers(exec)));
  fill_uniform(weights, 1, 0.02);
  fill_uniform(left, 2, 1);
  fill_uniform(out, 3, 1);

  GroupedRows const grouped{offsets.data(), nullptr, kokomo::index_t(count), kokomo::offset_t(rows)};
  WorkerScratch const scratch{memory.data(), product_scratch_bytes<float, Exec>(), product_workers(exec)};
  RowSource<T, float> const a{left.data(), depth};
  return time_calls(seconds, 3, [&] {
    if (kind == "product")
      grouped_product(exec, "bench::product", grouped, a, depth,
                      WeightRef<T const>{weights.data(), columns * depth, depth, 1}, BiasRef<T const>{}, columns,
                      RowTarget<float>{out.data(), columns}, kokomo::Write::overwrite, scratch);
    else
      grouped_outer_product(exec, "bench::outer", grouped, RowSource<float, float>{out.data(), columns}, columns, a,
                            depth, WeightRef<T>{weights.data(), columns * depth, depth, 1}, kokomo::Write::overwrite,
                            scratch);
    exec.fence();
  });
}

/// Prints a row and returns it.
Json time_groups(std::string const& kind, std::string const& dtype, Groups const& groups, Limits const& limits,
                 double seconds) {
  Timing const timing =
      dtype == "float32" ? measure<float>(kind, groups, seconds) : measure<kokomo::bfloat16>(kind, groups, seconds);
  double const ms = timing.median();
  double const flops = 2.0 * double(groups.total()) * columns * depth;
  auto const active = std::count_if(groups.rows.begin(), groups.rows.end(), [](long r) { return r > 0; });
  double const bytes = double(active) * columns * depth * (dtype == "float32" ? 4 : 2);
  double const share = std::max(flops / limits.product_gflops(dtype), bytes / limits.bandwidth) / ms / 1e6;
  long const most = *std::max_element(groups.rows.begin(), groups.rows.end());
  std::printf("%-8s %-9s %-9s %3zu experts, at most %5ld rows %10.3f ms %8.1f GFLOP/s %7.2f GB/s %5.0f %%\n",
              kind.c_str(), dtype.c_str(), groups.load.c_str(), groups.rows.size(), most, ms, flops / ms / 1e6,
              bytes / ms / 1e6, 100 * share);
  std::fflush(stdout);
  return Json()
      .add("kind", kind)
      .add("dtype", dtype)
      .add("load", groups.load)
      .add("experts", long(groups.rows.size()))
      .add("most_rows", most)
      .add("ms", ms)
      .add("gflops", flops / ms / 1e6)
      .add("gbs", bytes / ms / 1e6)
      .add("share", share);
}

void time_tiles(double seconds, std::vector<Json>& results) {
  for (TileRate const& rate : measure_tiles(seconds)) {
    std::printf("tile     float32   operands in %s %57.1f GFLOP/s %19.0f %%\n", rate.where.c_str(), rate.gflops,
                100 * rate.share);
    results.push_back(Json()
                          .add("kind", "tile")
                          .add("dtype", "float32")
                          .add("cache", rate.where)
                          .add("gflops", rate.gflops)
                          .add("share", rate.share));
  }
}

int run(Arguments const& arguments) {
  auto const rows = arguments.numbers("--rows", "1,2,4,8,16,64,256,1024,4096", 1, 1 << 16);
  auto const loads = arguments.list("--loads", "all", load_names());
  auto const dtypes = arguments.list("--dtypes", "all", {"float32", "bfloat16"});
  auto const kinds = arguments.list("--kinds", "all", {"product", "outer", "tile"});
  long const stream_mib = whole_number("--stream-mib", arguments.text("--stream-mib", "1024"), 1, 1 << 20);
  double const seconds = arguments.seconds("--budget", 0.5);
  std::string const json_file = arguments.output("--json");

  std::vector<Groups> cases;
  for (long const r : rows) cases.push_back(equal_groups(r));
  for (auto const& load : loads) cases.push_back(skewed_groups(load));

  Limits const limits = measure_limits(stream_mib);
  std::printf("%.1f GFLOP/s from registers, %.1f GB/s read from memory\n", limits.product_gflops("float32"),
              limits.bandwidth);
  std::vector<Json> results;
  for (auto const& kind : kinds) {
    if (kind == "tile") {
      time_tiles(seconds, results);
      continue;
    }
    for (auto const& dtype : dtypes)
      for (Groups const& groups : cases) results.push_back(time_groups(kind, dtype, groups, limits, seconds));
  }
  if (!json_file.empty()) {
    std::ofstream file(json_file);
    file << Json().add("limits", limits.json()).add("rows", results).text() << '\n' << std::flush;
    if (!file) throw UsageError("could not write " + json_file);
  }
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  try {
    Arguments const arguments(
        argc, argv, {"--rows", "--loads", "--dtypes", "--kinds", "--budget", "--stream-mib", "--json"}, {"--help"});
    if (arguments.has("--help")) return std::fputs(help_text, stdout), 0;
    Kokkos::ScopeGuard const kokkos(argc, argv);
    return run(arguments);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "product_bench: %s\n", error.what());
    return 2;
  }
}
