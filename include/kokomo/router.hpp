// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_HPP
#define KOKOMO_ROUTER_HPP

namespace kokomo::inline v0 {

/// Where a token goes: a Scorer (input -> logits) and a Selector (logits -> Assignment).
template <class ScorerT, class SelectorT> struct Router {
  using Scorer = ScorerT;
  using Selector = SelectorT;

  Scorer scorer{};
  Selector selector{};
};

} // namespace kokomo::inline v0

#endif
