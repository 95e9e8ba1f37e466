// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::Layer, slot Selector: the policy lacks offset_t entries_per_token\(Sizes const&\) const}}
#include "use.hpp"

/// A selector of a user that does not say how many experts a token can have.
struct Mine {
#if defined(KOKOMO_CORRECTED)
  kokomo::offset_t entries_per_token(kokomo::Sizes const&) const {
    return 1;
  }
#endif
  template <class GateScore, class T, class Exec>
  void select(Exec const&, kokomo::Routing<T, Exec> const&, kokomo::Nothing const&, kokomo::Nothing const&,
              kokomo::Assignment<T, Exec> const&, kokomo::Nothing const&) const {}
};

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, Mine>>>();
