// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <layer/runner.hpp>
#include <support/arguments.hpp>
#include <support/json.hpp>
#include <support/loads.hpp>
#include <support/machine.hpp>

#include <Kokkos_Core.hpp>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>

namespace {

using namespace bench;

char const* const help_text =
    R"(usage: layer_bench [options]

Times an MoE layer (softmax top-k, normalised weights, SwiGLU experts) on published shapes, on all threads of Kokkos's
host execution space, and measures what this machine can do at most. One shape is in memory at a time.

  --shapes LIST     of olmoe-1b-7b,qwen3-30b-a3b,mixtral-8x7b/4 (these are the default),gpt-oss-20b,384-experts,tiny
  --tokens LIST     tokens of a batch (default 1,16,512)
  --dtypes LIST     of float32,bfloat16 (both are the default): storage type of weights and activations
  --loads LIST      of random (default), balanced, hot (half of all tokens have one expert in common), zipf
  --train           also forward and backward
  --packed          also forward with weights packed beforehand, and the time that packing takes
  --phases          also the time of each kernel
  --budget SECONDS  for each row (default 2)
  --stream-mib N    size of the array that bandwidth is measured on (default 1024)
  --no-limits       do not measure the machine's limits
  --json FILE       write all of it as JSON
  --list            print the shapes: name, hidden, intermediate, experts, experts a token
  --serve           with one shape and one dtype: read rows to measure from standard input, each a line
                    TOKENS LOAD forward|train SECONDS [kokomo|kokomo-packed], and answer each with a line of JSON
  --help            this text

A list has commas between its items; "all" stands for all that there are. Exit status: 0; 2 for bad arguments.
)";

std::unique_ptr<Runner> make_runner(Dimensions const& shape, std::string const& dtype) {
  return dtype == "float32" ? make_float32_runner(shape) : make_bfloat16_runner(shape);
}

std::string peer_name(Request const& request) {
  return request.train ? "kokomo+backward" : request.packed ? "kokomo-packed" : "kokomo";
}

/// The nearer of the two bounds, in milliseconds.
struct Bound {
  double compute, memory;
  Bound(Measurement const& m, Limits const& limits, std::string const& dtype)
      : compute(m.flops / limits.product_gflops(dtype) / 1e6), memory(m.bytes / limits.bandwidth / 1e6) {}
  char const* name() const { return compute > memory ? "multiply-adds" : "bandwidth"; }
  double ms() const { return std::max(compute, memory); }
};

Json row(Dimensions const& shape, std::string const& dtype, Request const& request, Measurement const& m,
         std::optional<Limits> const& limits) {
  double const ms = m.timing.median();
  Json json;
  json.add("shape", shape.name).add("T", request.tokens).add("dtype", dtype).add("peer", peer_name(request));
  json.add("load", request.load).add("ms", ms);
  json.add("ms_low", m.timing.quantile(0.1)).add("ms_high", m.timing.quantile(0.9));
  json.add("calls", long(m.timing.ms.size())).add("routings", m.routings);
  json.add("gflops", m.flops / ms / 1e6).add("gbs", m.read_bytes / ms / 1e6);
  json.add("flops", m.flops).add("bytes", m.bytes).add("active_experts", m.active).add("most_rows", m.most_rows);
  json.add("err", m.error);
  if (request.packed) json.add("pack_ms", m.pack_ms);
  json.add("workspace_bytes", double(m.workspace_bytes)).add("tape_bytes", double(m.tape_bytes));
  if (limits) {
    Bound const bound(m, *limits, dtype);
    json.add("bound", bound.name()).add("share", bound.ms() / ms);
  }
  if (!m.phases.empty()) {
    Json phases;
    for (auto const& [label, time] : m.phases) phases.add(label, time);
    json.add("phases", phases);
  }
  return json;
}

void print(Dimensions const& shape, std::string const& dtype, Request const& request, Measurement const& m,
           std::optional<Limits> const& limits) {
  double const ms = m.timing.median();
  std::printf("%-15s %5ld %-8s %-8s %-8s %10.3f ms [%.3f, %.3f]%8.1f GFLOP/s%7.2f GB/s%7.1f MiB  err %.0e",
              shape.name.c_str(), request.tokens, dtype.c_str(), request.load.c_str(),
              request.train    ? "training"
              : request.packed ? "packed"
                               : "forward",
              ms, m.timing.quantile(0.1), m.timing.quantile(0.9), m.flops / ms / 1e6, m.read_bytes / ms / 1e6,
              double(m.workspace_bytes + m.tape_bytes) / (1 << 20), m.error);
  if (limits) {
    Bound const bound(m, *limits, dtype);
    std::printf("  %.0f %% of %s", 100 * bound.ms() / ms, bound.name());
  }
  std::printf("\n");
  std::vector<std::pair<double, std::string>> phases;
  double all = 0;
  for (auto const& [label, time] : m.phases) phases.emplace_back(time, label), all += time;
  std::sort(phases.rbegin(), phases.rend());
  for (auto const& [time, label] : phases)
    std::printf("    %-48s %10.4f ms %6.2f %%\n", label.c_str(), time, 100 * time / all);
  std::fflush(stdout);
}

int serve(Dimensions const& shape, std::string const& dtype) {
  auto const runner = make_runner(shape, dtype);
  std::cout << Json().add("ready", "kokomo").add("kernel", runner->kernel()).text() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string tokens, load, pass, system = "kokomo";
    Request request;
    words >> tokens >> load >> pass >> request.seconds;
    auto const& loads = load_names();
    if (!words || std::find(loads.begin(), loads.end(), load) == loads.end() || (pass != "forward" && pass != "train"))
      throw UsageError("'" + line + "' on standard input, expected TOKENS LOAD forward|train SECONDS");
    words >> system;
    request.packed = system == "kokomo-packed";
    request.tokens = whole_number("TOKENS", tokens, 1, 1 << 20);
    request.load = load;
    request.train = pass == "train";
    request.least = 1; // there will be further turns
    Measurement const m = runner->measure(request);
    std::cout << row(shape, dtype, request, m, std::nullopt).add("times", m.timing.ms).text() << std::endl;
  }
  return 0;
}

int run(Arguments const& arguments) {
  auto const names = arguments.list("--shapes", "olmoe-1b-7b,qwen3-30b-a3b,mixtral-8x7b/4", shape_names());
  auto const dtypes = arguments.list("--dtypes", "float32,bfloat16", {"float32", "bfloat16"});
  auto const tokens = arguments.numbers("--tokens", "1,16,512", 1, 1 << 20);
  auto const loads = arguments.list("--loads", "random", load_names());
  long const stream_mib = whole_number("--stream-mib", arguments.text("--stream-mib", "1024"), 1, 1 << 20);
  std::string const json_file = arguments.output("--json");
  double const seconds = arguments.seconds("--budget", 2);
  if (arguments.has("--serve")) {
    if (names.size() != 1 || dtypes.size() != 1) throw UsageError("--serve takes one shape and one dtype");
    return serve(shape(names[0]), dtypes[0]);
  }

  Json json;
  json.add("threads", Kokkos::DefaultHostExecutionSpace().concurrency());
  std::optional<Limits> limits;
  if (!arguments.has("--no-limits")) {
    std::fprintf(stderr, "measuring the machine's limits\n");
    limits = measure_limits(stream_mib);
    for (auto const& [name, rate] : limits->gflops)
      std::printf("%-12s %8.1f GFLOP/s from registers, all threads\n", name.c_str(), rate);
    std::printf("%-12s %8.1f GB/s read from %ld MiB, all threads\n", "memory", limits->bandwidth, stream_mib);
    json.add("limits", limits->json());
  }
  std::vector<Json> rows;
  for (auto const& name : names)
    for (auto const& dtype : dtypes) {
      std::fprintf(stderr, "%s %s: filling the weights\n", name.c_str(), dtype.c_str());
      auto const runner = make_runner(shape(name), dtype);
      for (long const T : tokens)
        for (auto const& load : loads)
          for (std::string const pass : {"forward", "packed", "train"}) {
            if (pass != "forward" && !arguments.has("--" + pass)) continue;
            Request const request{T, load, pass == "train", seconds, 3, pass == "packed", arguments.has("--phases")};
            Measurement const m = runner->measure(request);
            print(shape(name), dtype, request, m, limits);
            rows.push_back(row(shape(name), dtype, request, m, limits).add("kernel", runner->kernel()));
          }
    }
  if (!json_file.empty()) {
    std::ofstream file(json_file);
    file << json.add("rows", rows).text() << '\n' << std::flush;
    if (!file) throw UsageError("could not write " + json_file);
  }
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  try {
    Arguments const arguments(argc, argv,
                              {"--shapes", "--tokens", "--dtypes", "--loads", "--budget", "--stream-mib", "--json"},
                              {"--train", "--packed", "--phases", "--no-limits", "--list", "--serve", "--help"});
    if (arguments.has("--help")) return std::fputs(help_text, stdout), 0;
    if (arguments.has("--list")) {
      for (auto const& s : shapes())
        std::printf("%s %ld %ld %ld %ld\n", s.name.c_str(), s.hidden, s.intermediate, s.experts, s.k);
      return 0;
    }
    Kokkos::ScopeGuard const kokkos(argc, argv);
    return run(arguments);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "layer_bench: %s\n", error.what());
    return 2;
  }
}
