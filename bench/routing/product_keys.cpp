// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <routing/routing_case.hpp>

#include <kokomo/gate/pair_gate.hpp>
#include <kokomo/router/key_scorer.hpp>
#include <kokomo/router/pair_top_k.hpp>

std::vector<bench::RoutingCase> bench::product_key_cases() {
  using namespace kokomo;
  using Keys = RoutingLayer<Router<KeyScorer, PairTopK>, PairGate>;
  constexpr int heads = 8, k = 16;
  return {
      routing_case<Keys>(
          "product keys, 2^20 experts, 8 heads of 16",
          [](Dimensions const&) {
            return Keys::Policies{
                .router = {.scorer = {.heads = heads, .key_size = 128}, .selector = {.k = k, .heads = heads}},
                .gate = {.heads = heads}};
          },
          1 << 20),
  };
}
