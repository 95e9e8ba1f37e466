// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ADJUST_NO_ADJUSTMENT_HPP
#define KOKOMO_ADJUST_NO_ADJUSTMENT_HPP

#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {

/// Selection and gate see the scorer's logits as they are.
struct NoAdjustment {
  using slot = slots::adjust;
};

} // namespace kokomo::inline v0

#endif
