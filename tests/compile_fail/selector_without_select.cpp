// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::Layer, slot Selector: the policy lacks template <class GateScore, class T, class Exec> void select\(}}
#include "use.hpp"

/// A selector of a user that selects nothing.
struct Mine {
  kokomo::offset_t entries_per_token(kokomo::Sizes const&) const { return 1; }
#if defined(KOKOMO_CORRECTED)
  template <class GateScore, class T, class Exec>
  void select(Exec const&, kokomo::Routing<T, Exec> const&, kokomo::Nothing const&, kokomo::Nothing const&,
              kokomo::Assignment<T, Exec> const&, kokomo::Nothing const&) const {}
#endif
};

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, Mine>>>();
