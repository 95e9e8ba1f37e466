// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <routing/routing_case.hpp>
#include <support/arguments.hpp>
#include <support/json.hpp>
#include <support/machine.hpp>

#include <cmath>
#include <cstdio>
#include <fstream>

namespace {

using namespace bench;

char const* const help_text =
    R"(usage: routing_bench [options]

Times the routing path of an MoE layer alone, from x to rows grouped by expert: scorer, selection, gate, grouping and
what else there is (status, balancer, output). Its share is that of a layer whose experts run at the machine's rate of
multiply-adds in float32.

  --shapes LIST     of olmoe-1b-7b (default),qwen3-30b-a3b,mixtral-8x7b/4,gpt-oss-20b,384-experts,tiny
  --tokens LIST     tokens of a batch (default 1,16,512)
  --budget SECONDS  for each row (default 1)
  --json FILE       write all of it as JSON
  --help            this text

A list has commas between its items; "all" stands for all that there are. Exit status: 0; 2 for bad arguments.
)";

int run(Arguments const& arguments) {
  auto const names = arguments.list("--shapes", "olmoe-1b-7b", shape_names());
  auto const tokens = arguments.numbers("--tokens", "1,16,512", 1, 1 << 20);
  double const seconds = arguments.seconds("--budget", 1);
  std::string const json_file = arguments.output("--json");
  std::vector<RoutingCase> cases;
  for (auto const& some : {top_k_cases(), varying_cases(), balanced_cases(), product_key_cases()})
    cases.insert(cases.end(), some.begin(), some.end());

  double const rate = measure_limits(0).product_gflops("float32");
  std::printf("%-16s %6s %-42s %9s %9s %9s %9s %9s %9s  (ms)   share\n", "shape", "tokens", "router", "scorer",
              "selector", "gate", "grouping", "other", "whole");
  std::vector<Json> rows;
  for (auto const& name : names)
    for (long const T : tokens)
      for (auto const& routing : cases) {
        Dimensions const& s = shape(name);
        RoutingTimes const times = routing.run(s, T, seconds);
        double const whole = times.whole.median();
        // of a layer whose experts run at the machine's rate; another number of experts is another layer
        Dimensions layer = s;
        if (routing.picks > 0) layer.k = routing.picks;
        double const share = routing.experts > 0 ? std::nan("") : whole / (whole + layer.flops(T) / rate / 1e6);
        std::printf("%-16s %6ld %-42s %9.4f %9.4f %9.4f %9.4f %9.4f %9.4f", name.c_str(), T, routing.name.c_str(),
                    times.scorer, times.selector, times.gate, times.grouping, times.other, whole);
        if (routing.experts > 0)
          std::printf("           -\n");
        else
          std::printf("      %6.2f %%\n", 100 * share);
        std::fflush(stdout);
        rows.push_back(Json()
                           .add("shape", name)
                           .add("T", T)
                           .add("router", routing.name)
                           .add("ms", whole)
                           .add("scorer_ms", times.scorer)
                           .add("selector_ms", times.selector)
                           .add("gate_ms", times.gate)
                           .add("grouping_ms", times.grouping)
                           .add("other_ms", times.other)
                           .add("share", share));
      }
  if (!json_file.empty()) {
    std::ofstream file(json_file);
    file << Json().add("gflops", rate).add("rows", rows).text() << '\n' << std::flush;
    if (!file) throw UsageError("could not write " + json_file);
  }
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  try {
    Arguments const arguments(argc, argv, {"--shapes", "--tokens", "--budget", "--json"}, {"--help"});
    if (arguments.has("--help")) return std::fputs(help_text, stdout), 0;
    Kokkos::ScopeGuard const kokkos(argc, argv);
    return run(arguments);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "routing_bench: %s\n", error.what());
    return 2;
  }
}
