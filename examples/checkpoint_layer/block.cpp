// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "block.hpp"

#include <algorithm>

Outcome run(Block const& block) {
  auto const layer = block.make_layer(block.description, block.tokens, block.bfloat16);
  layer->load(block.tensor_of);
  block.progress("running");
  layer->forward(block.inputs); // the first one touches memory for the first time: not timed
  Outcome outcome;
  // at least 5 runs, and more of those that are short
  for (double total = 0; block.timed && (outcome.seconds.size() < 5 || (total < 0.5 && outcome.seconds.size() < 50));) {
    block.progress("timing");
    outcome.seconds.push_back(layer->forward_again());
    total += outcome.seconds.back();
  }

  outcome.y = layer->y();
  outcome.logits = layer->logits();
  outcome.status = layer->status();
  outcome.flop = layer->flop();
  auto const assignment = layer->assignment();
  outcome.chosen.resize(std::size_t(block.tokens));
  for (std::size_t t = 0; t < outcome.chosen.size(); ++t) {
    for (auto i = std::size_t(assignment.token_offsets[t]); i < std::size_t(assignment.token_offsets[t + 1]); ++i)
      outcome.chosen[t].emplace_back(assignment.expert[i], assignment.weight[i]);
    std::sort(outcome.chosen[t].begin(), outcome.chosen[t].end());
  }
  auto const& offsets = assignment.expert_offsets;
  for (std::size_t e = 1; e < offsets.size(); ++e) outcome.load.push_back(offsets[e] - offsets[e - 1]);
  return outcome;
}
