// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "report.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

namespace {

/// 1234567 as 1.23M: three digits that count.
std::string with_prefix(double value) {
  char const* prefix = "";
  for (char const* next : {"k", "M", "G"})
    if (value >= 999.5) value /= 1000, prefix = next;
  char text[32];
  std::snprintf(text, sizeof text, "%.*f%s", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value, prefix);
  return text;
}

/// One character an expert, up to 64; of more experts, the busiest first, one character a group of equal size.
std::string histogram(Result const& result) {
  constexpr std::size_t widest = 64;
  static constexpr char const* bars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  auto load = result.load;
  std::size_t const width = std::min(load.size(), widest);
  if (load.size() > widest) std::sort(load.rbegin(), load.rend());
  std::string text;
  for (std::size_t i = 0; i < width; ++i) {
    auto const begin = load.size() * i / width, end = load.size() * (i + 1) / width;
    auto const rows = std::accumulate(load.begin() + long(begin), load.begin() + long(end), kokomo::offset_t(0));
    double const share = double(rows) / double(end - begin) / std::max(result.balanced(), 1e-300);
    text += rows == 0 ? "·" : bars[std::clamp(int(std::lround(4 * share)) - 1, 0, 7)];
  }
  return text;
}

void print_status(kokomo::Status const& status) {
  auto const line = [](kokomo::offset_t count, char const* what) {
    if (count > 0) std::printf("       %lld %s\n", static_cast<long long>(count), what);
  };
  line(status.dropped, "entries dropped by capacity");
  line(status.tokens_without_expert, "tokens without an expert");
  line(status.non_finite_logits, "logits that are NaN or infinite");
  line(status.invalid_ids, "token or expert ids outside of their table");
}

} // namespace

double Result::median() const {
  if (seconds.empty()) return 0;
  auto const n = seconds.size();
  return (seconds[(n - 1) / 2] + seconds[n / 2]) / 2;
}

double Result::balanced() const {
  auto const rows = std::accumulate(load.begin(), load.end(), kokomo::offset_t(0));
  return load.empty() ? 0 : double(rows) / double(load.size());
}

double Result::max_violation() const {
  return balanced() > 0 ? double(*std::max_element(load.begin(), load.end())) / balanced() - 1 : 0;
}

void print_header(Run const& run) {
  std::printf("%s, %s on %s (%d threads)\n", run.model_type.c_str(), run.dtype.c_str(), run.execution_space.c_str(),
              run.threads);
  if (run.check) return;
  std::printf("load: ▄ is the balanced load, █ twice that and more, · none; MaxVio is (most - balanced) / balanced\n\n"
              "layer experts   k  tokens  median ms   (min .. max)      tokens/s  GFLOP/s  MaxVio  load\n");
}

void print_check(Run const& run, Result const& r) {
  std::printf("layer %3d  experts %4lld  k %2d  tokens %5lld  ", r.layer, static_cast<long long>(r.experts), r.k,
              static_cast<long long>(r.tokens));
  if (r.tokens == 0 || !r.failure.empty())
    std::printf("FAIL %s\n", r.failure.c_str());
  else
    std::printf("error %.2e  bound %.0e  ok%s\n", r.error, run.bound, r.note.c_str());
  std::fflush(stdout);
}

void print_timing(Result const& r) {
  double const seconds = r.median();
  char spread[48];
  std::snprintf(spread, sizeof spread, "(%.3g .. %.3g)", 1e3 * r.seconds.front(), 1e3 * r.seconds.back());
  std::printf("%5d %7lld %3d %7lld %10.4g   %-17s %8s %8s %7.2f  %s\n", r.layer, static_cast<long long>(r.experts), r.k,
              static_cast<long long>(r.tokens), 1e3 * seconds, spread, with_prefix(double(r.tokens) / seconds).c_str(),
              with_prefix(1e-9 * r.flop / seconds).c_str(), r.max_violation(), histogram(r).c_str());
  print_status(r.status);
  std::fflush(stdout);
}

std::string to_json(Run const& run, std::vector<Result> const& results) {
  using nlohmann::ordered_json;
  auto layers = ordered_json::array();
  for (auto const& r : results) {
    ordered_json layer = {{"layer", r.layer},           {"composition", r.composition},
                          {"experts", r.experts},       {"k", r.k},
                          {"hidden", r.hidden},         {"intermediate", r.intermediate},
                          {"shared_experts", r.shared}, {"shared_intermediate", r.shared_intermediate},
                          {"tokens", r.tokens}};
    if (!r.seconds.empty()) {
      layer["seconds"] = {
          {"median", r.median()}, {"min", r.seconds.front()}, {"max", r.seconds.back()}, {"runs", r.seconds.size()}};
      layer["tokens_per_s"] = double(r.tokens) / r.median();
      layer["gflops"] = 1e-9 * r.flop / r.median();
    }
    layer["load"] = r.load;
    layer["max_vio"] = r.max_violation();
    layer["status"] = {{"dropped", r.status.dropped},
                       {"tokens_without_expert", r.status.tokens_without_expert},
                       {"non_finite_logits", r.status.non_finite_logits},
                       {"invalid_ids", r.status.invalid_ids}};
    if (run.check) {
      layer["error"] = r.error; // NaN becomes null
      if (!r.note.empty()) layer["note"] = r.note;
      layer["passed"] = r.failure.empty();
      if (!r.failure.empty()) layer["failure"] = r.failure;
    }
    layers.push_back(std::move(layer));
  }
  ordered_json document = {{"config",
                            {{"folder", run.folder},
                             {"model_type", run.model_type},
                             {"dtype", run.dtype},
                             {"execution_space", run.execution_space},
                             {"threads", run.threads}}},
                           {"layers", std::move(layers)}};
  auto& config = document["config"];
  if (run.check)
    config["bound"] = run.bound;
  else
    config["seed"] = run.seed;
  return document.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}
