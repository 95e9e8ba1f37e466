// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <routing/routing_case.hpp>

#include <kokomo/gate/pair_gate.hpp>
#include <kokomo/router/key_scorer.hpp>
#include <kokomo/router/pair_top_k.hpp>

#include <algorithm>

std::vector<bench::RoutingCase> bench::product_key_cases() {
  using namespace kokomo;
  using Keys = RoutingLayer<Router<KeyScorer, PairTopK>, PairGate>;
  constexpr int heads = 8, k = 16;
  auto const keys = routing_case<Keys>(
      "product keys, 2^20 experts, 8 heads of 16",
      [](Dimensions const&) {
        return Keys::Policies{
            .router = {.scorer = {.heads = heads, .key_size = 128}, .selector = {.k = k, .heads = heads}},
            .gate = {.heads = heads}};
      },
      1 << 20);

  // What product keys spare: a key an expert and a top-k of all logits. One head, the query given; a batch is cut, since
  // the logits of 4096 tokens would take 16 GiB, and the time of one piece stands for the others'.
  using Table = RoutingLayer<Router<LinearScorer, TopK<>>, SoftmaxGate>;
  auto table = routing_case<Table>(
      "full table, 2^20 experts, 1 head of 16",
      [](Dimensions const&) { return Table::Policies{.router = {.selector = {.k = k}}}; }, 1 << 20);
  table.run = [piece = table.run](Dimensions shape, long tokens, double seconds) {
    long const most = 64;
    shape.hidden = 128;
    RoutingTimes times = piece(shape, std::min(tokens, most), seconds);
    double const pieces = double(tokens) / double(std::min(tokens, most));
    for (double* part : {&times.scorer, &times.selector, &times.gate, &times.grouping, &times.other}) *part *= pieces;
    for (double& ms : times.whole.ms) ms *= pieces;
    return times;
  };
  return {keys, table};
}
