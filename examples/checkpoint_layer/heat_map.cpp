// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "report.hpp"

#include <kokomo/stats/heat_map.hpp>

#include <algorithm>

using kokomo::stats::formatted;

std::string heat_map(Run const& run, std::vector<Result> const& results) {
  std::size_t experts = 0;
  kokomo::offset_t tokens = 0;
  for (auto const& r : results) experts = std::max(experts, r.load.size()), tokens = std::max(tokens, r.tokens);

  kokomo::stats::HeatMap map;
  map.title = "Load of the experts: " + run.model_type;
  std::string const source = run.check ? "from activations.safetensors" : "generated, seed " + std::to_string(run.seed);
  map.subtitle = formatted("%zu MoE block%s, up to %zu experts, top-%d, %lld tokens ", results.size(),
                           results.size() == 1 ? "" : "s", experts, results.empty() ? 0 : results[0].k,
                           static_cast<long long>(tokens)) +
                 source + ", " + run.dtype;
  map.row_label = "layer", map.column_label = "expert", map.bars = "MaxVio";
  for (auto const& r : results) {
    kokomo::stats::HeatRow row;
    row.label = std::to_string(r.layer);
    row.bar = r.max_violation();
    for (std::size_t e = 0; e < r.load.size(); ++e) {
      row.loads.push_back(r.balanced() > 0 ? double(r.load[e]) / r.balanced() : 0);
      row.tips.push_back(formatted("layer %d, expert %zu: %lld rows, %.2f x balanced", r.layer, e,
                                   static_cast<long long>(r.load[e]), row.loads.back()));
    }
    map.rows.push_back(std::move(row));
  }
  return map.svg();
}
